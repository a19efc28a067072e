"""/v1/responses: create, retrieve, delete, cancel, the items of the input and how many tokens they are."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from api import errors
from api.auth import ProjectCaller
from api.fine_tuning.stream_seats import Seat, SeatedStream
from api.gateway import assembled_completion, event_stream, inference
from api.gateway.disconnects import unless_disconnected
from api.gateway.exchange import Refused
from api.pages import After, PageWithIds, ends, limit, places
from api.requests.validation import validate
from api.wiring import Wired, Wiring
from foundation.errors import InvalidRequest
from foundation.headers import BATCH
from storage.inference import responses
from storage.organization.api_keys import Caller

from . import background, streams, turns
from .background import MAX_OF_PROJECT, STOPPED, WRITE_EVERY_S
from .request import InputOfResponse
from .turns import Turn
from .unfolding import UnfoldingResponse, failed

router = APIRouter(prefix="/v1/responses", tags=["responses"])

FIRST_PAUSE_S = 0.25
"""Between two looks at a response that somebody waits for; each is twice as long, up to that between two writings."""

Json = dict[str, Any]


class ResponseObject(BaseModel):
    """A response, as in OpenAI's API."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: str
    model: str
    output: list[Json]


class ResponseDeleted(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ShownItem(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str
    type: str


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


@router.post(
    "",
    response_model=ResponseObject,
    responses=inference.REPLIES,
    openapi_extra=inference.documented("model", "input"),
)
async def create_response(request: Request, caller: ProjectCaller, wiring: Wired) -> Response:
    project_id = caller.project_id or ""
    async with wiring.large_bodies.turn(request, project_id):
        turn = await turns.read(
            wiring, caller, await inference.read_body(request, project_id, wiring)
        )
        is_streaming = turn.request.stream is True
        if turn.request.background:
            if not is_streaming:
                await _start(wiring, caller, turn)
                return JSONResponse(turn.body)
            seat = wiring.stream_seats.take(caller)
            try:
                await _start(wiring, caller, turn)
            except BaseException:
                seat.release()
                raise
            return _followed(wiring, project_id, turn.id, seat)
        asking = turns.ask(
            wiring,
            caller,
            turn,
            is_streaming=is_streaming,
            request_id=request.state.request_id,
            is_batch=caller.is_internal and BATCH in request.headers,
        )
        exchange, upstream = await unless_disconnected(request, asking)
    headers = exchange.headers
    unfolding = UnfoldingResponse(turn.body)

    async def keep(body: Json) -> None:
        await wiring.database.run(turns.keep, project_id, turn, body)

    if is_streaming and event_stream.is_stream(upstream):
        return streams.StreamedResponse(exchange, upstream, unfolding, keep, headers)
    try:
        completion = await unless_disconnected(request, exchange.whole(upstream))
    except Refused as error:
        return errors.reply(turns.renamed(error), headers)
    finally:
        await upstream.aclose()
    unfolding.add_whole(assembled_completion.chunks(completion))
    await keep(unfolding.body())
    return JSONResponse(unfolding.body(), headers=headers)


async def _start(wiring: Wiring, caller: Caller, turn: Turn) -> None:
    """Raises InvalidRequest if the project has too many under way."""
    project_id = caller.project_id or ""
    if await wiring.database.read(responses.count_unfinished, project_id) >= MAX_OF_PROJECT:
        raise InvalidRequest(
            f"This project has {MAX_OF_PROJECT} responses in the background already. Wait for one of them, or cancel it.",
            status=429,
            param="background",
            code="rate_limit_exceeded",
        )
    await wiring.database.run(
        responses.create, project_id, body=turn.body, input=turn.input, asked=turn.asked
    )
    wiring.background.start(background.run(wiring, caller, turn.id))


@router.post("/input_tokens", openapi_extra=inference.documented("model", "input"))
async def count_input_tokens(request: Request, caller: ProjectCaller, wiring: Wired) -> InputTokens:
    """How many tokens a request's prompt would have, in the form in which the model reads it."""
    project_id = caller.project_id or ""
    async with wiring.large_bodies.turn(request, project_id):
        value = await inference.read_body(request, project_id, wiring)
        asked = validate(InputOfResponse, value)
        asked.check()
        _, said = await turns.said_to(wiring, caller, asked)
        # The reply of no token tells how long the prompt was.
        chat = asked.chat(said) | {"max_completion_tokens": 0}
        completion = await turns.completed(wiring, caller, chat)
    return InputTokens(input_tokens=completion["usage"]["prompt_tokens"])


@router.get("/{response_id}", response_model=ResponseObject, responses=inference.REPLIES)
async def retrieve_response(
    response_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    project_id = caller.project_id or ""
    body = await _look(wiring, project_id, response_id)
    if stream:
        seat = wiring.stream_seats.take(caller)
        return _followed(wiring, project_id, response_id, seat, starting_after)
    return JSONResponse(body)


@router.delete("/{response_id}")
async def delete_response(
    response_id: str, caller: ProjectCaller, wiring: Wired
) -> ResponseDeleted:
    await wiring.database.run(responses.remove, caller.project_id, response_id)
    return ResponseDeleted(id=response_id)


@router.post("/{response_id}/cancel", response_model=ResponseObject)
async def cancel_response(response_id: str, caller: ProjectCaller, wiring: Wired) -> Response:
    """End a response in the background; one that has ended stays as it is."""
    body = await wiring.database.run(responses.cancel, caller.project_id, response_id)
    return JSONResponse(body)


@router.get("/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> PageWithIds[ShownItem]:
    """What the model was given: what was said before, and the request's own items."""
    row = await wiring.database.run(responses.get, caller.project_id, response_id)
    shown = row.input
    if row.previous_response_id is not None:
        before = await wiring.database.read(
            responses.items_up_to, caller.project_id, row.previous_response_id
        )
        shown = before + shown
    ids = [item["id"] for item in shown]
    wanted, has_more = places(ids, after=after, limit=limit, descending=order == "desc")
    page = [ShownItem(**shown[place]) for place in wanted]
    return PageWithIds(data=page, has_more=has_more, **ends([item.id for item in page]))


def _followed(
    wiring: Wiring,
    project_id: str,
    response_id: str,
    seat: Seat,
    starting_after: int | None = None,
) -> SeatedStream:
    """The events of a stored response, as soon as it has ended."""

    async def ended() -> Json:
        pause_s = FIRST_PAUSE_S
        while True:
            body = await _look(wiring, project_id, response_id)
            if body["status"] not in responses.UNFINISHED:
                return body
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, WRITE_EVERY_S)

    return SeatedStream(streams.replayed(ended, starting_after=starting_after), seat)


async def _look(wiring: Wiring, project_id: str, response_id: str) -> Json:
    """The response as it is now; one whose process has died has failed."""
    row, is_silent = await wiring.database.read(responses.look, project_id, response_id)
    return failed(row.body, STOPPED) if is_silent else row.body
