"""One turn of a response: its request read, what was said before it found, the model asked, the outcome kept."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx
import orjson
from sqlalchemy.orm import Session

from api.gateway import inference, targets
from api.gateway.exchange import CHAT_PATH, Exchange
from api.gateway.guard import GuardedExchange
from api.requests.validation import validate
from api.wiring import Wiring
from foundation.errors import InvalidRequest, LuthierError
from storage.ids import new_id
from storage.inference import conversations, responses
from storage.organization.api_keys import Caller

from . import items, messages
from .items import Item
from .messages import Message
from .request import CreateResponse, InputOfResponse

Json = dict[str, Any]

MAX_STORED_BYTES = 2 * 1024 * 1024
"""Of a request's own items, and of what the response tells of the request."""
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""What a parameter of a chat is called in a response."""


@dataclass(frozen=True)
class Turn:
    request: CreateResponse
    input: list[Item]
    messages: list[Message]
    body: Json
    """The response before anything of it has come."""
    asked: Json
    """The request as it came, but for its input."""

    @property
    def id(self) -> str:
        response_id: str = self.body["id"]
        return response_id


async def read(wiring: Wiring, caller: Caller, value: Json) -> Turn:
    """Raises ValidationError or LuthierError."""
    request = validate(CreateResponse, value)
    request.check()
    given, said = await said_to(wiring, caller, request)
    body = {
        "id": new_id("resp_", 40),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "queued" if request.background else "in_progress",
        "error": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
        **request.told(targets.model_name(value)),
    }
    asked = {name: param for name, param in value.items() if name != "input"}
    num_bytes = 0
    if request.is_stored:
        kept = ([given, body], asked) if request.background else ([given, body],)
        num_bytes = max(len(orjson.dumps(part)) for part in kept)
    if num_bytes > MAX_STORED_BYTES:
        raise InvalidRequest(
            f"A request of {num_bytes} bytes is too large to be stored; at most {MAX_STORED_BYTES} bytes are. Send "
            "'store': false.",
            param="store",
        )
    return Turn(request, given, said, body, asked)


async def resumed(wiring: Wiring, caller: Caller, response_id: str) -> Turn | None:
    """The turn of a response in the background that has not begun, as its row has it; None if it is no longer wanted.

    Raises LuthierError.
    """
    row = await wiring.database.read(responses.find_waiting, response_id)
    if row is None:
        return None
    request = validate(CreateResponse, row.asked)
    given = row.input
    before = await _said_before(wiring, caller, request, given)
    said = messages.of_items(request.instructions, [*before, *given])
    return Turn(request, given, said, row.body, row.asked)


async def said_to(
    wiring: Wiring, caller: Caller, request: InputOfResponse
) -> tuple[list[Item], list[Message]]:
    """The request's own items, and the chat that they are the end of. Raises LuthierError."""
    given = items.taken(request.input if request.input is not None else [])
    before = await _said_before(wiring, caller, request, given)
    return given, messages.of_items(request.instructions, [*before, *given])


async def _said_before(
    wiring: Wiring, caller: Caller, request: InputOfResponse, given: list[Item]
) -> list[Item]:
    """In the responses or the conversation that the request goes on from. Raises LuthierError."""
    if request.previous_response_id:
        return await wiring.database.read(
            responses.items_up_to, caller.project_id, request.previous_response_id
        )
    if request.conversation_id:
        before = await wiring.database.read(
            conversations.all_items, caller.project_id, request.conversation_id
        )
        _check_ids({item["id"] for item in before}, given)
        return before
    return []


def _check_ids(known: set[str], given: list[Item]) -> None:
    """Raises InvalidRequest for an item that the conversation has already, before it costs an answer."""
    for index, item in enumerate(given):
        if item["id"] in known:
            raise InvalidRequest(
                f"Item '{item['id']}' is in the conversation already. Send only what is new in 'input'.",
                param=f"input[{index}].id",
            )
        known.add(item["id"])


async def ask(
    wiring: Wiring,
    caller: Caller,
    turn: Turn,
    *,
    is_streaming: bool,
    request_id: str = "",
    is_batch: bool = False,
) -> tuple[Exchange, httpx.Response]:
    """The chat completion on its way: its head is there, and says that it is one.

    With `truncation: auto` what was said first is left out until the rest fits. Raises LuthierError.
    """
    said: list[Message] | None = turn.messages
    while said is not None:
        chat = turn.request.chat(said) | {"stream": is_streaming}
        async with wiring.entrance.turn(caller.project_id or ""):
            target = await targets.resolve(wiring, caller, targets.model_name(chat))
            exchange = GuardedExchange(
                wiring,
                caller,
                target,
                chat,
                path=CHAT_PATH,
                request_id=request_id,
                is_batch=is_batch,
            )
            try:
                upstream = await exchange.send()
            except InvalidRequest as error:
                raise renamed(error) from None
        if upstream.status_code == HTTPStatus.OK:
            return exchange, upstream
        refusal = await _refusal(exchange, upstream)
        is_too_long = refusal.code == "context_length_exceeded"
        said = (
            messages.shortened(said) if turn.request.truncation == "auto" and is_too_long else None
        )
    raise refusal


async def completed(wiring: Wiring, caller: Caller, chat: Json) -> Json:
    """A chat completion that is asked for on a response's behalf. Raises LuthierError."""
    async with wiring.entrance.turn(caller.project_id or ""):
        try:
            return await inference.complete(wiring, caller, chat)
        except LuthierError as error:
            raise renamed(error) from None


async def _refusal(exchange: Exchange, upstream: httpx.Response) -> LuthierError:
    """What an inference server answered instead, in the words of responses."""
    try:
        await exchange.whole(upstream)
    except LuthierError as error:
        return renamed(error)
    finally:
        await upstream.aclose()
    raise AssertionError("a reply that is not 200 is an error")


def renamed(error: LuthierError) -> LuthierError:
    """An error about a chat as one about the response: with what the parameter is called there."""
    if error.param is None:
        return error
    name = error.param.partition("[")[0]
    if name in _NAMES:
        # Which message it is says nothing about which item.
        error.message = error.message.replace(f"'{error.param}'", f"'{_NAMES[name]}'")
        error.param = _NAMES[name]
    return error


def keep(session: Session, project_id: str, turn: Turn, body: Json) -> None:
    """Store a response that has ended, and what was said in it. Raises LuthierError."""
    if turn.request.is_stored:
        responses.create(session, project_id, body=body, input=turn.input)
    say(session, project_id, turn, body)


def say(session: Session, project_id: str, turn: Turn, body: Json) -> None:
    """Add what was said to the request's conversation, if it has one."""
    if turn.request.conversation_id and body["status"] != "failed":
        conversations.add_items(
            session, project_id, turn.request.conversation_id, [*turn.input, *body["output"]]
        )
