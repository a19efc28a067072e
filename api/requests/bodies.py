"""JSON bodies, read under a cap and only after the caller is known.

FastAPI would read a declared body before it asks who sends it, and to any length. Parsing holds everybody
up, on a thread too, for the parser keeps the interpreter to itself; so what a route has no use for is not
read.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import Depends, Request
from pydantic import BaseModel

from api.auth import of_project
from foundation.bodies import MAX_BODY_BYTES
from foundation.errors import InvalidRequest, TooLarge

from .validation import validate

MAX_NESTED = 240
"""So many arrays and objects may stand within each other."""
_WRITTEN_NESTED = 254
"""Of more nothing is written: what is read leaves room for what is put around it."""

T = TypeVar("T", bound=BaseModel)


async def read_object(
    request: Request, *, is_required: bool = True, max_bytes: int | None = None
) -> dict[str, Any]:
    """The body as a JSON object. Standard JSON only: no NaN, no lone surrogates, bounded depth.

    One that is not required may be empty, which gives `{}`. `max_bytes` is MAX_BODY_BYTES if left out.
    """
    content = await _read(request, MAX_BODY_BYTES if max_bytes is None else max_bytes)
    if not is_required and not content:
        return {}
    value = _parsed(content)
    if not isinstance(value, dict):
        raise InvalidRequest("The JSON body of your request must be an object.")
    return value


async def _read(request: Request, max_bytes: int) -> bytearray:
    declared = request.headers.get("content-length", "")
    content = bytearray()
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            content += chunk
            if len(content) > max_bytes:
                raise _too_large(max_bytes)
    return content


def _parsed(content: bytearray) -> Any:
    # A million small arrays would be looked through again and again while they are made.
    gc.disable()
    try:
        value = orjson.loads(content)
        if content.count(b"[") + content.count(b"{") > MAX_NESTED:
            nested = value
            for _ in range(_WRITTEN_NESTED - MAX_NESTED):
                nested = [nested]
            orjson.dumps(nested)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            "We could not parse the JSON body of your request. The API expects a JSON payload, but "
            f"what was sent was not valid JSON: {error}"
        ) from None
    except orjson.JSONEncodeError:
        raise InvalidRequest(
            "We could not parse the JSON body of your request: its arrays and objects are nested "
            f"too deeply. At most {MAX_NESTED} may stand within each other."
        ) from None
    finally:
        gc.enable()
    return value


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"Maximum content size limit ({max_bytes}) exceeded. The body of this request may have "
        f"{max_bytes} bytes."
    )


def json_body(
    model: type[T],
    *,
    by: Callable[..., Any] = of_project,
    is_required: bool = True,
    max_bytes: int | None = None,
) -> Callable[..., Awaitable[T]]:
    """A dependency that gives the body as a `model`; document it with `document(model)`.

    `by` is who may send it: a dependency of `auth`, settled before anything is read.
    """

    async def read(request: Request, _: Any = Depends(by)) -> T:
        value = await read_object(request, is_required=is_required, max_bytes=max_bytes)
        return validate(model, value)

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
