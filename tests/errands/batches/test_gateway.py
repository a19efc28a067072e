from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import pytest
from fastapi import FastAPI, Request, Response

from errands.batches import gateway
from errands.batches.gateway import ApiReply, Gateway
from tests.api.stack import running
from tests.worker.scene import wait_for


@dataclass
class Api:
    """Gives its replies one after the other, and never any after the last."""

    replies: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.post("/v1/completions", response_model=None)(self._answer)
        return app

    async def _answer(self, request: Request) -> Response:
        self.requests.append(dict(request.headers))
        if not self.replies:
            await request.body()
            while not await request.is_disconnected():
                await asyncio.sleep(0.01)
        status, headers = self.replies.pop(0) if self.replies else (500, {})
        return Response(b'{"n": 1}' if status != 418 else b"<html>", status, headers)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def asking(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(gateway, "MAX_PAUSE_S", 0.01)
    with running(api.app()) as url:
        asking = Gateway(url, "the internal key", 2)
        yield asking
        asking.close()


def ask(asking: Gateway) -> ApiReply:
    return asking.ask("proj_1", "batch_1", "/v1/completions", b"{}").result(timeout=5)


def test_request_says_on_whose_behalf_it_is(api: Api, asking: Gateway) -> None:
    api.replies = [(200, {"x-request-id": "req_1"})]
    assert ask(asking) == ApiReply(200, "req_1", {"n": 1})
    headers = api.requests[0]
    assert headers["authorization"] == "Bearer the internal key"
    assert headers["x-luthier-project"] == "proj_1"
    assert headers["x-luthier-batch"] == "batch_1"


def test_busy_api_is_asked_until_it_answers(api: Api, asking: Gateway) -> None:
    api.replies = [(503, {}), (429, {"retry-after": "0"}), (401, {}), (503, {}), (503, {})]
    api.replies.append((200, {}))
    assert ask(asking).status == 200


def test_fault_is_reported_when_it_stays(api: Api, asking: Gateway) -> None:
    api.replies = [(500, {}), (200, {})]
    assert ask(asking).status == 200
    api.replies = [(500, {}), (503, {}), (502, {}), (504, {}), (200, {})]
    assert ask(asking).status == 504


def test_refusal_is_final_and_may_be_no_json(api: Api, asking: Gateway) -> None:
    api.replies = [(400, {}), (418, {})]
    assert ask(asking).status == 400
    reply = ask(asking)
    assert reply.status == 418
    assert reply.body["error"]["message"] == "<html>"
    assert len(api.requests) == 2


def test_model_that_takes_too_long_again_and_again_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(gateway, "MAX_PAUSE_S", 0.01)
    with running(api.app()) as url:
        asking = Gateway(url, "key", 2)
        with pytest.raises(gateway.TimedOut):
            ask(asking)
        asking.close()
    assert len(api.requests) == gateway.MAX_FAULTS


def test_only_so_many_are_under_way_and_cancelling_makes_room(api: Api, asking: Gateway) -> None:
    futures = [asking.ask("proj_1", "batch_1", "/v1/completions", b"{}") for _ in range(3)]
    wait_for(lambda: len(api.requests) == 2, what="two requests")
    futures[0].cancel()
    wait_for(lambda: len(api.requests) == 3, what="the third")
    for future in futures:
        future.cancel()
        with pytest.raises(CancelledError):
            future.result(timeout=5)
