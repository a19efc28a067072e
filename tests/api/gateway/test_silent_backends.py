"""An inference server that lives but answers nothing: nobody waits for it, and what it had begun goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from api.gateway import backends
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask, gateway
from tests.api.stack import Api, Tenant, wait_until


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "LOOK_INTERVAL_S", 0.02)
    monkeypatch.setattr(backends, "LOOK_TIMEOUT_S", 0.2)


def test_who_waits_for_a_server_that_falls_silent_is_told_so_and_so_is_who_comes_later(
    api: Api, tenant: Tenant
) -> None:
    backend = FakeBackend(is_frozen=True)
    with (
        gateway(api, backend) as front,
        front.client(tenant) as client,
        ThreadPoolExecutor() as threads,
    ):
        waiting = [threads.submit(ask, client, stream=stream) for stream in (False, True)]
        for each in waiting:
            with pytest.raises(openai.InternalServerError, match="not being served") as told:
                each.result(timeout=20)
            assert told.value.status_code == 503
        num_asked = len(backend.requests)
        with pytest.raises(openai.InternalServerError, match="not being served"):
            ask(client)
        assert len(backend.requests) == num_asked
        backend.is_frozen = False
        wait_until(lambda: is_answered(client), timeout_s=20)


def is_answered(client: openai.OpenAI) -> bool:
    try:
        return bool(ask(client).choices)
    except openai.InternalServerError:
        return False


def test_another_server_takes_over(api: Api, tenant: Tenant) -> None:
    servers = [FakeBackend("one"), FakeBackend("two")]
    with gateway(api, *servers) as front, front.client(tenant) as client:
        ask(client)
        (first,) = (server for server in servers if server.requests)
        first.is_frozen = True
        # This one is sent to it before anybody can know.
        assert ask(client, timeout=20).choices[0].message.content.startswith("Hello from ")
        (other,) = (server for server in servers if server is not first)
        assert len(other.requests) == 1
        first.is_frozen = False


def test_a_reply_that_has_begun_goes_on(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(is_endless=True)
    with gateway(api, backend) as front, front.client(tenant) as client:
        stream = ask(client, stream=True)
        first = next(stream)
        backend.is_frozen = True
        with pytest.raises(openai.InternalServerError, match="not being served"):
            ask(client)
        assert [first, *(next(stream) for _ in range(4))]
        num_signs = backend.num_signs_of_life
        wait_until(lambda: backend.num_signs_of_life > num_signs)
        assert backend.num_cancelled == 0
        stream.close()
        backend.is_frozen = False
