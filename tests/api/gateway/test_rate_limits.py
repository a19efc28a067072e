from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import redis

from api.gateway.rate_limits import RateLimited, RateLimits, _told, likely_tokens
from embedded import ports
from storage.organization import projects
from storage.organization.api_keys import Caller
from tests.api.stack import Api, Tenant

from .fake_backend import FakeBackend, refusal
from .test_inference import MODEL, ask, gateway


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def front(api: Api, backend: FakeBackend) -> Iterator[Api]:
    with gateway(api, backend, requests_per_minute=2, tokens_per_minute=600) as front:
        yield front


def remaining(front: Api, tenant: Tenant, noun: str, **body: Any) -> int:
    """What a chat's reply says is left."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **body}
    with front.http(tenant) as http:
        reply = http.post("/v1/chat/completions", json=asked)
    return int(reply.headers[f"x-ratelimit-remaining-{noun}"])


def test_what_a_minute_allows_is_told_and_held(front: Api, backend: FakeBackend) -> None:
    tenant, other = front.tenant(), front.tenant()
    with front.client(tenant) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}]
        )
        assert raw.headers["x-ratelimit-limit-requests"] == "2"
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        assert raw.headers["x-ratelimit-limit-tokens"] == "600"
        assert raw.headers["x-ratelimit-reset-requests"].endswith("s")
        # Of whichever kind, and streamed or not.
        client.responses.create(model=MODEL, input="x", stream=True).close()
        num_asked = len(backend.requests)
        with pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model=MODEL, prompt="x")
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.type == "requests"
    assert "requests per min (RPM): Limit 2, Used 2, Requested 1" in refused.value.message
    headers = refused.value.response.headers
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 30
    assert len(backend.requests) == num_asked
    assert remaining(front, other, "requests") == 1


def test_tokens_are_taken_by_estimate_and_settled_by_use(front: Api) -> None:
    tenant = front.tenant()
    before = remaining(front, tenant, "tokens", max_tokens=400)
    assert before < 200
    # Eight were used, so all but these are given back.
    deadline = time.monotonic() + 10
    while _level(front, tenant) < 590:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_was_refused_or_broke_off_gives_its_tokens_back(
    front: Api, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = front.tenant()
    monkeypatch.setattr(backend, "answer", refusal("No.", "messages", "no"))
    assert remaining(front, tenant, "tokens", max_tokens=400) < 200
    deadline = time.monotonic() + 10
    while _level(front, tenant) < 599:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_project_has_a_limit_of_its_own(front: Api) -> None:
    tenant = front.tenant()
    client = front.client(tenant, admin_key=front.admin_key())
    limits = client.admin.organization.projects.rate_limits
    (limit,) = limits.list_rate_limits(tenant.project_id)
    assert (limit.max_requests_per_1_minute, limit.max_tokens_per_1_minute) == (2, 600)
    changed = limits.update_rate_limit(
        limit.id, project_id=tenant.project_id, max_requests_per_1_minute=7
    )
    assert (changed.max_requests_per_1_minute, changed.max_tokens_per_1_minute) == (7, 600)
    assert remaining(front, tenant, "requests") == 6
    limits.update_rate_limit(limit.id, project_id=tenant.project_id, max_requests_per_1_minute=0)
    assert remaining(front, tenant, "requests") <= 2
    with pytest.raises(openai.BadRequestError, match="max_images"):
        limits.update_rate_limit(limit.id, project_id=tenant.project_id, max_images_per_1_minute=1)
    with pytest.raises(openai.NotFoundError, match="rl-all-models"):
        limits.update_rate_limit("rl-gpt-4o", project_id=tenant.project_id)
    client.close()


def test_an_operator_weighs_a_project(front: Api, backend: FakeBackend) -> None:
    tenant = front.tenant()
    client = front.client(tenant, admin_key=front.admin_key())
    limits = client.admin.organization.projects.rate_limits

    def weigh(weight: object) -> Any:
        body = {"luthier": {"weight": weight}}
        return limits.update_rate_limit(
            "rl-all-models", project_id=tenant.project_id, extra_body=body
        )

    assert weigh(3).to_dict()["luthier"] == {"weight": 3}
    ask(client)
    assert backend.requests[-1][1]["x-luthier-weight"] == "3"
    weigh(1)
    ask(client)
    assert "x-luthier-weight" not in backend.requests[-1][1]
    for wrong in (0, 101, 1.5, "3", None):
        with pytest.raises(openai.BadRequestError, match="weight"):
            weigh(wrong)
    client.close()


def test_nobody_is_limited_unless_it_is_said(api: Api) -> None:
    with gateway(api, FakeBackend()) as front, front.client(front.tenant()) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}]
        )
    assert not [name for name in raw.headers if name.startswith("x-ratelimit")]


def test_a_broker_that_does_not_answer_limits_nobody(api: Api) -> None:
    nowhere = f"redis://127.0.0.1:{ports.free()}/0"
    settings: Any = {"broker_url": nowhere, "requests_per_minute": 1}
    with gateway(api, FakeBackend(), **settings) as front, front.client(front.tenant()) as client:
        for _ in range(2):
            ask(client)


def test_a_bucket_is_filled_evenly_and_may_owe(api: Api) -> None:
    """6,000 a minute are one in ten milliseconds."""
    caller = Caller("k", "project", projects_id(api), "o", "o")

    async def run() -> None:
        limits = RateLimits(
            api.settings.broker_url, requests_per_minute=None, tokens_per_minute=6000
        )
        try:
            await limits.settle(caller, 6020)
            started_s = time.monotonic()
            while not await _took(limits, caller):
                await asyncio.sleep(0.01)
            # Twenty that were owed, and ten.
            assert time.monotonic() - started_s >= 0.29
        finally:
            await limits.close()

    asyncio.run(run())


def test_times_are_written_as_openai_writes_them() -> None:
    assert [_told(s) for s in (0, 0.2401, 1, 59.5, 60, 62.5)] == [
        "0ms",
        "241ms",
        "1s",
        "59.5s",
        "1m0s",
        "1m2.5s",
    ]


def test_a_request_s_tokens_are_estimated_by_its_length() -> None:
    assert likely_tokens({}, 400) == 100
    assert likely_tokens({"max_tokens": 5, "n": 3}, 400) == 115
    assert likely_tokens({"max_tokens": "many", "n": -1}, 400) == 100


async def _took(limits: RateLimits, caller: Caller) -> bool:
    try:
        await limits.take(caller, MODEL, 10)
    except RateLimited:
        return False
    return True


def projects_id(api: Api) -> str:
    with api.sessions.begin() as session:
        return projects.create(session, "x").id


def _level(front: Api, tenant: Tenant) -> float:
    """Of a project's bucket for tokens."""
    with redis.Redis.from_url(front.settings.broker_url) as broker:
        found = broker.hget(f"luthier:limit:{tenant.project_id}:tokens", "level")
    assert isinstance(found, bytes)
    return float(found)
