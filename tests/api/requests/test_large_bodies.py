"""Who sends a large body slowly keeps nobody else's waiting."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from api.requests import large_bodies
from api.requests.large_bodies import LARGE_BYTES, MAX_PROJECTS
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import gateway
from tests.api.stack import Api, Tenant, wait_until
from tests.api.test_connections import error, rest

LARGE = b'{"model": "tiny-random", "messages": [], "user": "%s"}' % (b"x" * LARGE_BYTES)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "ARRIVAL_S", 0.2)


def turns(front: Api) -> Any:
    return front.app.state.wiring.large_bodies


@contextmanager
def begun(front: Api, tenant: Tenant) -> Iterator[socket.socket]:
    """A request of which a part of the body has come, and the rest does not."""
    split = urlsplit(front.url)
    num_arriving = len(turns(front)._arriving)
    with socket.create_connection((split.hostname or "", split.port or 0), timeout=20) as opened:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            f"authorization: Bearer {tenant.key}\r\ncontent-length: {len(LARGE)}\r\n\r\n"
        )
        opened.sendall(head.encode() + LARGE[:1000])
        wait_until(lambda: len(turns(front)._arriving) > num_arriving)
        yield opened


def post(front: Api, tenant: Tenant) -> int:
    with front.http(tenant) as http:
        return http.post("/v1/chat/completions", content=LARGE, timeout=20).status_code


def test_slow_bodies_of_many_projects_make_room_for_another_s(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, ExitStack() as stack:
        slow = [stack.enter_context(begun(front, front.tenant())) for _ in range(MAX_PROJECTS)]
        assert post(front, tenant) == 200
        status, found = error(rest(slow[0]))
        assert status == 408
        assert "other large ones wait, and it did not come within 0.2 seconds" in found["message"]


def test_a_slow_body_makes_room_for_another_of_its_project(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, begun(front, tenant) as slow:
        assert post(front, front.tenant()) == 200
        assert post(front, tenant) == 200
        assert error(rest(slow))[0] == 408


def test_a_slow_body_that_nobody_waits_for_may_be_slow(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, begun(front, tenant) as slow:
        assert post(front, front.tenant()) == 200
        slow.settimeout(0.5)
        with pytest.raises(TimeoutError):
            slow.recv(1)
        slow.settimeout(20)
        slow.sendall(LARGE[1000:])
        assert b"200 OK" in rest(slow)
        assert not turns(front)._arriving
