from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from foundation.errors import Unavailable
from serving.events import ClientGone, EventStream, while_connected


class Client:
    """The other end of an ASGI connection."""

    def __init__(self) -> None:
        self.has_left = asyncio.Event()
        self.body = b""
        self.num_pieces = 0
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if body := message.get("body", b""):
            await self.reads.wait()
            self.body += body
            self.num_pieces += 1


class Source:
    """Events that remember whether they were closed."""

    def __init__(self, *, fails: bool = False, hangs: bool = False) -> None:
        self.fails, self.hangs, self.is_closed = fails, hangs, False

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        try:
            yield {"number": 1}
            if self.fails:
                raise Unavailable("the engine is gone")
            if self.hangs:
                await asyncio.Event().wait()
            yield {"number": 2}
        finally:
            self.is_closed = True


async def serve(source: Source, client: Client) -> None:
    await EventStream(source.events())({}, client.receive, client.send)


async def test_events_end_with_done() -> None:
    client = Client()
    await serve(Source(), client)
    assert client.body == b'data: {"number":1}\n\ndata: {"number":2}\n\ndata: [DONE]\n\n'


async def test_events_that_come_together_are_sent_together() -> None:
    """A reply of 100 choices has as many events in a step, and each piece costs a call of the system."""
    client = Client()
    go_on = asyncio.Event()

    async def events() -> AsyncGenerator[dict[str, Any]]:
        for _ in range(3):
            for number in range(100):
                yield {"number": number}
            await go_on.wait()

    task = asyncio.create_task(EventStream(events())({}, client.receive, client.send))
    while client.body.count(b"data: ") < 100:
        await asyncio.sleep(0)
    assert client.num_pieces == 1
    go_on.set()
    await asyncio.wait_for(task, 5)
    assert client.body.count(b'"number":99') == 3
    assert client.num_pieces <= 4


async def test_a_reply_waits_for_a_client_that_does_not_read() -> None:
    client = Client()
    client.reads.clear()
    num_made = 0

    async def events() -> AsyncGenerator[dict[str, Any]]:
        nonlocal num_made
        for _ in range(1000):
            num_made += 1
            yield {"text": "x" * 1000}

    task = asyncio.create_task(EventStream(events())({}, client.receive, client.send))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert num_made < 200
    client.reads.set()
    await asyncio.wait_for(task, 5)
    assert client.body.count(b"data: ") == 1001


async def test_error_on_the_way_becomes_an_event() -> None:
    client = Client()
    await serve(Source(fails=True), client)
    assert b'"message":"the engine is gone"' in client.body
    assert b"[DONE]" not in client.body


async def test_events_are_closed_when_the_client_leaves() -> None:
    client, source = Client(), Source(hangs=True)
    task = asyncio.create_task(serve(source, client))
    while not client.body:
        await asyncio.sleep(0)
    client.has_left.set()
    await asyncio.wait_for(task, 5)
    assert source.is_closed


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    client, was_cancelled = Client(), False

    async def work() -> None:
        nonlocal was_cancelled
        try:
            client.has_left.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    with pytest.raises(ClientGone):
        await asyncio.wait_for(while_connected(client.receive, work()), 5)
    assert was_cancelled
