"""A backend's stream of events passed on to the client, with the names put right on the way.

The stream is cut where events end, not where the network happened to cut it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from storage.errors import LuthierError

from .errors import SERVER_ERROR

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"
MAX_EVENT_BYTES = 16 * 1024 * 1024

_EVENT_END = re.compile(rb"\r?\n\r?\n")

Rewrite = Callable[[dict[str, Any]], dict[str, Any]]


class EventStream(StreamingResponse):
    """Ends the backend's work when the client goes away, because it closes the backend's connection."""

    media_type = MEDIA_TYPE

    def __init__(self, upstream: httpx.Response, rewrite: Rewrite) -> None:
        super().__init__(
            rewritten(upstream, rewrite),
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._upstream.aclose()


async def rewritten(upstream: httpx.Response, rewrite: Rewrite) -> AsyncIterator[bytes]:
    """The events, each complete. A stream that breaks ends with an error event, as OpenAI's do."""
    try:
        async for event in events(upstream.aiter_raw()):
            yield _rewrite_event(event, rewrite)
    except (httpx.HTTPError, EventTooLong) as error:
        log.warning("backend.stream_broke", error=repr(error))
        yield b"data: " + orjson.dumps(LuthierError(SERVER_ERROR).body()) + b"\n\n"


class EventTooLong(Exception):
    """An event without an end."""


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut `chunks` into events without their ends; what is left at the end is an event, too."""
    buffer = bytearray()
    async for chunk in chunks:
        # An end may begin in the last three bytes of what was there before.
        start = max(0, len(buffer) - 3)
        buffer += chunk
        while end := _EVENT_END.search(buffer, start):
            yield bytes(buffer[: end.start()])
            del buffer[: end.end()]
            start = 0
        if len(buffer) > MAX_EVENT_BYTES:
            raise EventTooLong
    if buffer.strip():
        yield bytes(buffer)


def _rewrite_event(event: bytes, rewrite: Rewrite) -> bytes:
    lines = [_rewrite_line(line, rewrite) for line in event.splitlines()]
    return b"\n".join(lines) + b"\n\n"


def _rewrite_line(line: bytes, rewrite: Rewrite) -> bytes:
    name, _, data = line.partition(b":")
    if name != b"data" or not data.lstrip().startswith(b"{"):
        return line
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return line
    return b"data: " + orjson.dumps(rewrite(value))
