"""A response as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import anyio
import httpx
import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.database import FAILED
from api.errors import SERVER_ERROR
from api.gateway import event_stream
from api.gateway.exchange import Exchange
from foundation.errors import LuthierError

from .open_item import Event
from .unfolding import UnfoldingResponse

Json = dict[str, Any]
Keep = Callable[[Json], Awaitable[None]]

HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

log = structlog.get_logger()


class StreamedResponse(StreamingResponse):
    """Ends the model's work when the client goes away."""

    media_type = event_stream.MEDIA_TYPE

    def __init__(
        self,
        exchange: Exchange,
        upstream: httpx.Response,
        unfolding: UnfoldingResponse,
        keep: Keep,
        headers: dict[str, str],
    ) -> None:
        """`keep` is given the whole response before the client hears of its end."""
        self._exchange, self._upstream = exchange, upstream
        events = unfolded(exchange, upstream, unfolding, keep)
        super().__init__(written(events), headers={**HEADERS, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.close()
            with anyio.CancelScope(shield=True):
                await self._upstream.aclose()


async def unfolded(
    exchange: Exchange, upstream: httpx.Response, unfolding: UnfoldingResponse, keep: Keep
) -> AsyncIterator[Event]:
    """The events of a response; one that breaks off ends as failed."""
    for event in unfolding.begin():
        yield event
    try:
        async for chunk in event_stream.values(upstream):
            seen = exchange.see(chunk)
            if seen is not None and "error" in seen:
                raise LuthierError(str(seen["error"].get("message") or SERVER_ERROR))
            for event in unfolding.add(chunk):
                yield event
        if not unfolding.is_finished:
            raise LuthierError(event_stream.BROKE)
        last = list(unfolding.end())
        await keep(unfolding.body())
    except (httpx.HTTPError, event_stream.EventTooLong) as error:
        log.warning("response.broke", error=repr(error))
        last = list(unfolding.fail(event_stream.BROKE, "server_error"))
    except FAILED as error:
        log.warning("response.not_kept", error=repr(error))
        last = list(unfolding.fail(SERVER_ERROR, "server_error"))
    except LuthierError as error:
        last = list(unfolding.fail(error.message, "server_error"))
    for event in last:
        yield event


async def written(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield _written(event)


async def replayed(
    body: Callable[[], Awaitable[Json]], *, starting_after: int | None
) -> AsyncIterator[bytes]:
    """The events of a stored response, when it has ended. The last one comes in any case: it has the whole response,
    also for who has seen more events than a response has that is there already. If there is no more to be told of it,
    an error is the only event."""
    try:
        response = await body()
    except (LuthierError, *FAILED) as error:
        log.warning("response.lost", error=repr(error))
        told = error if isinstance(error, LuthierError) else LuthierError(SERVER_ERROR)
        yield _written(
            {
                "type": "error",
                "sequence_number": 0,
                "code": told.code or told.type,
                "message": told.message,
                "param": told.param,
            }
        )
        return
    events = list(UnfoldingResponse(response).replay(response))
    for event in _behind(events, starting_after):
        yield _written(event)


def _behind(events: list[Event], starting_after: int | None) -> Iterable[Event]:
    first = 0 if starting_after is None else starting_after + 1
    return events[min(first, len(events) - 1) :]


def _written(event: Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))
