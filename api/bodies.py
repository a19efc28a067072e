"""JSON bodies, read under a cap and only after the caller is known.

FastAPI would read a declared body before it asks who sends it, and to any length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel

from storage.errors import InvalidRequest, TooLarge

from .auth import ProjectCaller

MAX_BODY_BYTES = 16 * 1024 * 1024

T = TypeVar("T", bound=BaseModel)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Standard JSON only: no NaN, no lone surrogates, bounded depth."""
    content = bytearray()
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                raise TooLarge(f"Maximum content size limit ({MAX_BODY_BYTES}) exceeded.")
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. The API expects a JSON payload, but "
            f"what was sent was not valid JSON: {error}"
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The JSON body of your request must be an object.")
    return value


def json_body(model: type[T]) -> Callable[..., Awaitable[T]]:
    """A dependency that gives the body as a `model`; document it with `document(model)`."""

    async def read(request: Request, _: ProjectCaller) -> T:
        return model.model_validate(await read_object(request))

    return read


def document(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
