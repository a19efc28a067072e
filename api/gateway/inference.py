"""The gateway: /v1/chat/completions and /v1/completions, passed on to an inference server.

A model's name is resolved within the caller's project before anything else happens; an inference server
only ever hears of bases and adapter ids.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from api import errors
from api.auth import ProjectCaller
from api.requests import bodies
from api.wiring import Wired, Wiring
from foundation.bodies import MAX_LONG_BODY_BYTES
from foundation.headers import BATCH
from foundation.invalid_parameters import refuse_large_objects
from storage.organization.api_keys import Caller

from . import event_stream, targets
from .disconnects import unless_disconnected
from .exchange import CHAT_PATH, CLASSIFY_PATH, TEXT_PATH, Refused
from .guard import GuardedExchange
from .targets import Target

router = APIRouter(prefix="/v1", tags=["inference"])

Json = dict[str, Any]


class AnyCompletion(BaseModel):
    """A completion of either endpoint, as in OpenAI's API."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: str
    created: int
    model: str
    choices: list[Json]


def documented(*required: str) -> Json:
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {"model": {"type": "string"}, "stream": {"type": "boolean"}},
        "additionalProperties": True,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


REPLIES: dict[int | str, Json] = {
    200: {"content": {event_stream.MEDIA_TYPE: {"schema": {"type": "string"}}}}
}


@router.post(
    "/chat/completions",
    response_model=AnyCompletion,
    responses=REPLIES,
    openapi_extra=documented("model", "messages"),
)
async def create_chat_completion(
    request: Request, caller: ProjectCaller, wiring: Wired
) -> Response:
    return await pass_on(CHAT_PATH, request, caller, wiring)


@router.post(
    "/completions",
    response_model=AnyCompletion,
    responses=REPLIES,
    openapi_extra=documented("model", "prompt"),
)
async def create_completion(request: Request, caller: ProjectCaller, wiring: Wired) -> Response:
    return await pass_on(TEXT_PATH, request, caller, wiring)


async def complete(wiring: Wiring, caller: Caller, body: Json) -> Json:
    """A chat completion that is not streamed, for the api's own use.

    Raises LuthierError for whatever a client would get as an error reply.
    """
    target = await targets.resolve(wiring, caller, targets.model_name(body))
    exchange = GuardedExchange(wiring, caller, target, {**body, "stream": False}, path=CHAT_PATH)
    upstream = await exchange.send()
    try:
        return await exchange.whole(upstream)
    finally:
        await upstream.aclose()


async def pass_on(
    path: str,
    request: Request,
    caller: Caller,
    wiring: Wiring,
    complete_body: Callable[[Json, Target], Awaitable[Json]] | None = None,
) -> Response:
    """`complete_body` adds what the inference server must know of the model besides."""
    project_id = caller.project_id or ""
    async with wiring.large_bodies.turn(request, project_id):
        body = await read_body(request, project_id, wiring)
        async with wiring.entrance.turn(project_id):
            target = await targets.resolve(
                wiring, caller, targets.model_name(body), is_to_write=path != CLASSIFY_PATH
            )
            if complete_body is not None:
                body = await complete_body(body, target)
            exchange = GuardedExchange(
                wiring,
                caller,
                target,
                body,
                path=path,
                request_id=request.state.request_id,
                is_batch=caller.is_internal and BATCH in request.headers,
            )
            # Nothing but what is to be sent remains of it.
            del body
            upstream = await unless_disconnected(request, exchange.send())
    headers = exchange.headers
    if exchange.is_streaming and event_stream.is_stream(upstream):
        return event_stream.RelayedStream(upstream, exchange, headers)
    try:
        value = await unless_disconnected(request, exchange.whole(upstream))
    except Refused as error:
        return errors.reply(error, headers)
    finally:
        await upstream.aclose()
    return JSONResponse(value, headers=headers)


async def read_body(request: Request, project_id: str, wiring: Wiring) -> Json:
    """The JSON object of a request for inference, within its turn among large bodies. Raises InvalidRequest."""
    async with wiring.large_bodies.arrival(request, project_id):
        body = await bodies.read_object(request, max_bytes=MAX_LONG_BODY_BYTES)
    # Megabytes that would be written, sent and read once more, only to be refused there.
    refuse_large_objects(body)
    return body
