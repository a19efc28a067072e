"""Replies over HTTP: streams of server-sent events, and work that ends when the client goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from foundation.errors import LuthierError

from .engine.failures import EngineError
from .engine_errors import in_openais_words

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 64 * 1024
"""Of a stream; its reply waits for the client beyond that."""


class ClientGone(Exception):
    """The client closed the connection; nobody reads a reply any more."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, its cleaning up awaited, when the client disconnects.

    Raises `ClientGone` then. The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


class EventStream(Response):
    """Objects as server-sent events, then `[DONE]`; an error on the way becomes an event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any]]) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        # Proxies must pass each event on at once.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_all(send))
        except ClientGone:
            log.debug("a client left in the middle of a stream")

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        outbox = _Outbox()
        rendering = asyncio.create_task(self._render(outbox))
        try:
            while body := await outbox.take():
                await send({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            rendering.cancel()
            await asyncio.gather(rendering, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _render(self, outbox: _Outbox) -> None:
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await outbox.put(orjson.dumps(event))
                await outbox.put(b"[DONE]")
            except LuthierError as error:
                await outbox.put(orjson.dumps(error.body()))
            except EngineError as error:
                await outbox.put(orjson.dumps(in_openais_words(error).body()))
            except Exception:
                log.exception("a stream failed")
                failure = LuthierError("The server had an error while processing your request.")
                await outbox.put(orjson.dumps(failure.body()))
            finally:
                outbox.end()


class _Outbox:
    """Events that are to be sent. What is there at the same time goes out in one piece.

    A step of the engine gives a reply of many choices as many events. Each piece costs a call of the system,
    and each call the lock that the engine's thread wants, too.
    """

    def __init__(self) -> None:
        self._body = bytearray()
        self._is_over = False
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Waits while there is more than a client reads at once."""
        self._body += b"data: " + data + b"\n\n"
        self._has_news.set()
        while len(self._body) > MAX_UNSENT_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    def end(self) -> None:
        self._is_over = True
        self._has_news.set()

    async def take(self) -> bytes:
        """All that there is; nothing once that is all."""
        while not self._body and not self._is_over:
            self._has_news.clear()
            await self._has_news.wait()
        body = bytes(self._body)
        self._body.clear()
        self._has_room.set()
        return body
