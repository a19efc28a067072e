"""The gateway: /v1/chat/completions and /v1/completions, passed on to an inference server.

A model's name is resolved within the caller's project before anything else happens; an inference server
only ever hears of bases and adapter ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import orjson
import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect

from storage import models
from storage.api_keys import Caller
from storage.errors import InvalidRequest, LuthierError, NotFound, Unavailable

from . import bodies, errors, event_stream
from .auth import ProjectCaller
from .wiring import Wired, Wiring

log = structlog.get_logger()
router = APIRouter(prefix="/v1", tags=["inference"])

T = TypeVar("T")
Json = dict[str, Any]

CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Target:
    """What a model's name stands for."""

    base_model: str
    wire_model: str
    """What the inference server calls it: the base's id or the adapter's."""
    key: str
    """Requests with the same key go to the same server, as long as it is up."""
    headers: dict[str, str] = field(default_factory=dict)


class Completion(BaseModel):
    """As in OpenAI's API."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: str
    created: int
    model: str
    choices: list[Json]


def _documented(*required: str) -> Json:
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {"model": {"type": "string"}, "stream": {"type": "boolean"}},
        "additionalProperties": True,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_REPLIES: dict[int | str, Json] = {
    200: {"content": {event_stream.MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses=_REPLIES,
    openapi_extra=_documented("model", "messages"),
)
async def create_chat_completion(
    request: Request, caller: ProjectCaller, wiring: Wired
) -> Response:
    return await _pass_on(CHAT_PATH, request, caller, wiring)


@router.post(
    "/completions",
    response_model=Completion,
    responses=_REPLIES,
    openapi_extra=_documented("model", "prompt"),
)
async def create_completion(request: Request, caller: ProjectCaller, wiring: Wired) -> Response:
    return await _pass_on("/v1/completions", request, caller, wiring)


async def complete(wiring: Wiring, caller: Caller, body: Json) -> Json:
    """A chat completion that is not streamed, for the api's own use.

    Raises LuthierError for whatever a client would get as an error reply.
    """
    name = _model_name(body)
    target = await resolve(wiring, caller, name)
    content = orjson.dumps({**body, "model": target.wire_model, "stream": False})
    upstream = await wiring.backends.send(
        target.base_model, target.key, CHAT_PATH, content, target.headers
    )
    try:
        await upstream.aread()
    except httpx.TransportError as error:
        raise _broken_off(error) from None
    finally:
        await upstream.aclose()
    value = _checked(upstream, target, name)
    if upstream.status_code != 200:
        raise LuthierError(**value["error"], status=upstream.status_code)
    return value


async def _pass_on(path: str, request: Request, caller: Caller, wiring: Wiring) -> Response:
    body = await bodies.read_object(request)
    name = _model_name(body)
    target = await resolve(wiring, caller, name)
    content = orjson.dumps({**body, "model": target.wire_model})
    headers = {**target.headers, "x-request-id": request.state.request_id}
    upstream = await _unless_disconnected(
        request, wiring.backends.send(target.base_model, target.key, path, content, headers)
    )
    if upstream.headers.get("content-type", "").startswith(event_stream.MEDIA_TYPE):
        return event_stream.EventStream(upstream, lambda event: _renamed(event, target, name))
    try:
        await _unless_disconnected(request, upstream.aread())
    except httpx.TransportError as error:
        raise _broken_off(error) from None
    finally:
        await upstream.aclose()
    return _reply(upstream, target, name)


async def resolve(wiring: Wiring, caller: Caller, name: str) -> Target:
    """Raises NotFound, with the same text for another project's model as for none."""
    salt = {"x-luthier-cache-salt": caller.project_id}
    base = wiring.catalogue().get(name)
    if base is not None:
        # A project's requests share prefixes with each other only, so they belong together.
        return Target(base.id, base.id, caller.project_id, salt)
    found = await wiring.database.run(models.find, caller.project_id, name)
    if found is None:
        raise NotFound(
            f"The model `{name}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    model, adapter = found
    return Target(
        model.base_model,
        adapter.id,
        adapter.id,
        salt
        | {
            "x-luthier-adapter-sha256": adapter.sha256,
            "x-luthier-adapter-bytes": str(adapter.size_bytes),
        },
    )


def _model_name(body: Json) -> str:
    name = body.get("model")
    if name is None:
        raise InvalidRequest(
            "Missing required parameter: 'model'.",
            param="model",
            code="missing_required_parameter",
        )
    if not isinstance(name, str) or "\0" in name:
        raise InvalidRequest(
            "Invalid type for 'model': expected a model's name.", param="model", code="invalid_type"
        )
    return name


def _reply(upstream: httpx.Response, target: Target, name: str) -> Response:
    value = _checked(upstream, target, name)
    status = upstream.status_code
    headers = {n: v for n in ("retry-after",) if (v := upstream.headers.get(n))}
    if status == 503:
        headers.setdefault("retry-after", str(errors.RETRY_AFTER_S))
    return JSONResponse(value, status, headers)


def _checked(upstream: httpx.Response, target: Target, name: str) -> Json:
    """The body of a reply that was read: a completion, or an error in OpenAI's shape."""
    try:
        value = orjson.loads(upstream.content)
    except orjson.JSONDecodeError:
        value = None
    status = upstream.status_code
    is_error = isinstance(value, dict) and isinstance(value.get("error"), dict)
    if status in (401, 403) or not isinstance(value, dict) or (status != 200 and not is_error):
        # The key that it refuses is the gateway's, and other answers are no inference server's.
        log.error("backend.misbehaved", status=status, body=upstream.text[:500])
        raise LuthierError(errors.SERVER_ERROR)
    return _renamed(value, target, name)


def _broken_off(error: httpx.TransportError) -> Unavailable:
    log.warning("backend.reply_broke", error=repr(error))
    return Unavailable("The model's reply broke off. Please try again.")


def _renamed(value: Json, target: Target, name: str) -> Json:
    """With the user's name for the model instead of the inference server's."""
    if "model" in value:
        value["model"] = name
    error = value.get("error")
    if isinstance(error, dict):
        message = str(error.get("message", "")).replace(target.wire_model, name)
        kept = {key: error.get(key) for key in ("type", "param", "code")}
        return {"error": {"message": message, **kept}}
    return value


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client goes away: nobody waits for it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
