"""A backend's stream of events passed on to the client, by way of who watches them go by.

The stream is cut where events end, not where the network happened to cut it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import anyio
import httpx
import orjson
import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.database import FAILED
from api.errors import SERVER_ERROR
from foundation.errors import LuthierError

log = structlog.get_logger()

MEDIA_TYPE = "text/event-stream"
DONE = b"[DONE]"
MAX_EVENT_BYTES = 16 * 1024 * 1024
BROKE = "The model's reply broke off. Please try again."
_ERROR = b'data: {"error":'
"""How an inference server tells that there will be no end."""

_EVENT_END = re.compile(rb"\r?\n\r?\n")

Json = dict[str, Any]


class Watcher(Protocol):
    """Sees a stream go by."""

    def see(self, event: Json) -> Json | None:
        """The event as the client gets it; None: not at all."""

    async def all_seen(self) -> None:
        """Called at the end of a whole stream, before the client hears of the end."""

    def close(self) -> None:
        """Called once, however the stream ended."""


class RelayedStream(StreamingResponse):
    """Ends the backend's work when the client goes away, because it closes the backend's connection."""

    media_type = MEDIA_TYPE

    def __init__(
        self, upstream: httpx.Response, watcher: Watcher, headers: Mapping[str, str]
    ) -> None:
        super().__init__(
            watched(upstream, watcher),
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers},
        )
        self._upstream = upstream
        self._watcher = watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watcher.close()
            with anyio.CancelScope(shield=True):
                await self._upstream.aclose()


def is_stream(upstream: httpx.Response) -> bool:
    """Whether the reply is a stream of events, not a whole."""
    kind: str = upstream.headers.get("content-type", "")
    return kind.startswith(MEDIA_TYPE)


async def values(upstream: httpx.Response) -> AsyncIterator[Json]:
    """What the stream's events hold; ends with the stream or its `[DONE]`."""
    async for event in events(upstream.aiter_raw()):
        for line in event.splitlines():
            name, _, data = line.partition(b":")
            if name == b"data" and data.strip() == DONE:
                return
            value = _object(data) if name == b"data" else None
            if value is not None:
                yield value


async def watched(upstream: httpx.Response, watcher: Watcher) -> AsyncIterator[bytes]:
    """The events, each complete. A stream that breaks, or ends before its end, ends with an error event, as
    OpenAI's do."""
    is_over = False
    try:
        async for event in events(upstream.aiter_raw()):
            is_done = event.removeprefix(b"data:").strip() == DONE
            is_over = is_over or is_done or event.startswith(_ERROR)
            if is_done:
                await watcher.all_seen()
            shown = _show(event, watcher)
            if shown:
                yield shown + b"\n\n"
        if not is_over:
            log.warning("stream.broke", error="it ended early")
            yield _event(BROKE)
    except (httpx.HTTPError, EventTooLong) as error:
        log.warning("stream.broke", error=repr(error))
        yield _event(BROKE)
    except FAILED as error:
        log.warning("stream.not_kept", error=repr(error))
        yield _event(SERVER_ERROR)


def _event(message: str) -> bytes:
    return b"data: " + orjson.dumps(LuthierError(message).body()) + b"\n\n"


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


def _show(event: bytes, watcher: Watcher) -> bytes:
    lines = [_show_line(line, watcher) for line in event.splitlines()]
    return b"\n".join(line for line in lines if line is not None)


def _show_line(line: bytes, watcher: Watcher) -> bytes | None:
    name, _, data = line.partition(b":")
    value = _object(data) if name == b"data" else None
    if value is None:
        return line
    seen = watcher.see(value)
    return None if seen is None else b"data: " + orjson.dumps(seen)


def _object(data: bytes) -> Json | None:
    """The JSON object of an event's data, if it is one."""
    if not data.lstrip().startswith(b"{"):
        return None
    try:
        value: Json = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value
