from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi.responses import JSONResponse

from api.gateway import entrance
from api.gateway.backends import Backends
from api.gateway.entrance import MAX_OF_PROJECT
from api.gateway.exchange import CHAT_PATH, Exchange
from api.gateway.targets import Target
from api.wiring import Wiring
from storage.organization.api_keys import Caller
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask, gateway
from tests.api.stack import Api, wait_until


@contextmanager
def crowded(api: Api, backend: FakeBackend) -> Iterator[list[Future[Any]]]:
    """A crowd of one project stands in the entrance, and another's request has gone past it to the backend."""
    many, other = api.tenant(), api.tenant()
    with (
        gateway(api, backend) as front,
        front.client(many) as crowd,
        front.client(other) as client,
        ThreadPoolExecutor(3 * MAX_OF_PROJECT) as threads,
    ):
        waiting = [threads.submit(ask, crowd) for _ in range(2 * MAX_OF_PROJECT)]
        wait_until(lambda: len(backend.requests) == MAX_OF_PROJECT)
        waiting.append(threads.submit(ask, client))
        wait_until(lambda: len(backend.requests) > MAX_OF_PROJECT)
        salts = [headers["x-luthier-cache-salt"] for _, headers in backend.requests]
        assert salts == MAX_OF_PROJECT * [many.project_id] + [other.project_id]
        yield waiting


def test_a_crowd_of_one_projects_requests_leaves_the_entrance_to_others(api: Api) -> None:
    """However many of a project's requests come at once, a few are dealt with at a time."""
    backend = FakeBackend(is_frozen=True)
    with crowded(api, backend) as waiting:
        backend.is_frozen = False
        for each in waiting:
            assert each.result(timeout=30).choices


def test_who_is_refused_leaves_one_after_the_other(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that come again as soon as they are refused do not come all at once."""
    may_leave = threading.Event()

    async def hold_back() -> None:
        while not may_leave.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(entrance, "hold_back", hold_back)
    error = {"message": "no room", "type": "rate_limit_error", "param": None, "code": None}
    backend = FakeBackend(answer=JSONResponse({"error": error}, status_code=429))
    with crowded(api, backend) as waiting:
        may_leave.set()
        for each in waiting:
            with pytest.raises(openai.RateLimitError):
                each.result(timeout=30)


async def test_a_client_that_goes_away_while_it_is_held_back_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_held, body = asyncio.Event(), Body(b'{"error": {"message": "no room"}}')

    async def hold_back() -> None:
        is_held.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(entrance, "hold_back", hold_back)
    transport = httpx.MockTransport(lambda _: httpx.Response(429, stream=body))
    async with httpx.AsyncClient(transport=transport) as http:
        backends = Backends(http, {"base": ("http://backend",)}, "")
        exchange = Exchange(
            cast(Wiring, SimpleNamespace(backends=backends)),
            Caller("key", "project", "proj_a", "org", "acme"),
            Target("base", "base", "base", "base", "proj_a"),
            {"model": "base", "messages": []},
            path=CHAT_PATH,
            is_limited=False,
        )
        sending = asyncio.create_task(exchange.send())
        await asyncio.wait_for(is_held.wait(), 10)
        assert body.is_closed
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


class Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content

    async def aclose(self) -> None:
        self.is_closed = True
