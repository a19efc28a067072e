"""JSON bodies, read under a cap and only after the caller is known.

FastAPI would read a declared body before it asks who sends it, and to any length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import Depends, Request
from pydantic import BaseModel

from storage.errors import InvalidRequest, TooLarge

from .auth import of_project

MAX_BODY_BYTES = 16 * 1024 * 1024

T = TypeVar("T", bound=BaseModel)


async def read_object(request: Request, *, is_required: bool = True) -> dict[str, Any]:
    """The body as a JSON object. Standard JSON only: no NaN, no lone surrogates, bounded depth.

    One that is not required may be empty, which gives `{}`.
    """
    content = bytearray()
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                raise TooLarge(f"Maximum content size limit ({MAX_BODY_BYTES}) exceeded.")
    if not is_required and not content:
        return {}
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


def json_body(
    model: type[T], *, by: Callable[..., Any] = of_project, is_required: bool = True
) -> Callable[..., Awaitable[T]]:
    """A dependency that gives the body as a `model`; document it with `document(model)`.

    `by` is who may send it: a dependency of `auth`, settled before anything is read.
    """

    async def read(request: Request, _: Any = Depends(by)) -> T:
        return model.model_validate(await read_object(request, is_required=is_required))

    return read


_documented: dict[str, type[BaseModel]] = {}


def document(model: type[BaseModel], *, is_required: bool = True) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is read here; the schema finds its way by itself."""
    _documented[reference(model)] = model
    schema = {"$ref": reference(model)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": is_required, "content": content}}


def documented() -> list[type[BaseModel]]:
    """Every model that a route reads here."""
    return list(_documented.values())


def reference(model: type[BaseModel]) -> str:
    """Stands for the model until the document is made, which knows the names that are taken."""
    return f"{model.__module__}.{model.__qualname__}"
