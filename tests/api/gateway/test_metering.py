from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from api.database import Database
from api.gateway.metering import Meter
from foundation.headers import BATCH, PROJECT
from storage.organization.api_keys import Caller
from storage.organization.usage import UsageRow
from storage.schema import OtherSchema
from tests.api.stack import Api, Tenant, process, running, wait_until

from .fake_backend import FakeBackend
from .test_inference import MESSAGES, ask, asking, gateway, openai_error

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 1},
}


def rows(api: Api, tenant: Tenant) -> list[UsageRow]:
    with api.sessions() as session:
        query = select(UsageRow).where(UsageRow.project_id == tenant.project_id)
        return list(session.scalars(query.order_by(UsageRow.model, UsageRow.is_batch)))


def sums(api: Api, tenant: Tenant) -> dict[str, tuple[int, int, int, int]]:
    """Input, cached and output tokens and the number of requests, by model."""
    found: dict[str, tuple[int, int, int, int]] = {}
    for row in rows(api, tenant):
        before = found.get(row.model, (0, 0, 0, 0))
        new = (row.input_tokens, row.cached_tokens, row.output_tokens, row.num_requests)
        found[row.model] = tuple(a + b for a, b in zip(before, new, strict=True))  # type: ignore[assignment]
    return found


def test_requests_are_counted_under_the_model_s_canonical_name(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant).name
    with gateway(api, FakeBackend()) as front, front.client(tenant) as client:
        ask(client, "gpt-4o-mini")
        ask(client)
        client.completions.create(model="tiny-random", prompt="x")
        ask(client, model)
        list(ask(client, model, stream=True))
        wait_until(lambda: sums(api, tenant).get(model, (0, 0, 0, 0))[3] == 2)
    assert sums(api, tenant) == {"tiny-random": (9, 3, 15, 3), model: (6, 2, 10, 2)}
    assert all(row.api_key_id.startswith("key_") and not row.is_batch for row in rows(api, tenant))


def test_what_was_counted_is_written_before_the_api_ends(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend()) as front, front.client(tenant) as client:
        ask(client)
    assert sums(api, tenant) == {"tiny-random": (3, 1, 5, 1)}


def test_a_request_that_failed_used_nothing(api: Api, tenant: Tenant) -> None:
    backend = FakeBackend(answer=openai_error(400, "no"))
    with gateway(api, backend) as front, front.client(tenant) as client:
        for options in ({}, {"stream": True}, {"model": "nothing"}):
            try:
                ask(client, **options)
            except openai.APIStatusError:
                continue
    assert rows(api, tenant) == []


def test_of_a_stream_that_nobody_reads_to_its_end_the_part_that_was_made_counts(
    api: Api, tenant: Tenant
) -> None:
    with gateway(api, FakeBackend(is_endless=True)) as front, front.client(tenant) as client:
        stream = ask(client, stream=True)
        for _ in range(5):
            next(stream)
        stream.close()
        wait_until(lambda: sums(api, tenant) == {"tiny-random": (3, 1, 5, 1)})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_of_a_whole_reply_that_nobody_waits_for_the_part_that_was_made_counts(
    api: Api, tenant: Tenant, path: str
) -> None:
    backend = FakeBackend(is_endless=True)
    with gateway(api, backend) as front:
        with asking(front, tenant, path, {"messages": MESSAGES, "prompt": "x"}):
            # By then all that was generated has gone over the wire.
            wait_until(lambda: backend.num_signs_of_life > 20)
        wait_until(lambda: sums(api, tenant) == {"tiny-random": (3, 1, 5, 1)})
        wait_until(lambda: backend.num_cancelled == 1)


def test_of_a_whole_reply_that_breaks_off_the_part_that_was_made_counts(
    api: Api, tenant: Tenant
) -> None:
    with gateway(api, FakeBackend(breaks_after=2)) as front, front.client(tenant) as client:
        with pytest.raises(openai.InternalServerError, match="broke off"):
            ask(client)
        with pytest.raises(openai.InternalServerError, match="broke off"):
            client.completions.create(model="tiny-random", prompt="x")
        wait_until(lambda: sums(api, tenant) == {"tiny-random": (6, 2, 4, 2)})


def test_a_batch_s_requests_are_counted_apart_if_luthier_itself_says_so(
    api: Api, tenant: Tenant
) -> None:
    body = {"model": "tiny-random", "messages": MESSAGES}
    batch = {BATCH: "batch_1"}
    internal = {"authorization": "Bearer internal", PROJECT: tenant.project_id}
    with gateway(api, FakeBackend()) as front:
        url = f"{front.url}/v1/chat/completions"
        for headers in (internal | batch, tenant.headers | batch):
            reply = httpx.post(url, json=body, headers=headers, trust_env=False)
            assert reply.status_code == 200
    assert [(row.is_batch, row.num_requests) for row in rows(api, tenant)] == [
        (False, 1),
        (True, 1),
    ]


@pytest.mark.slow
def test_nothing_counted_is_lost_when_the_process_is_told_to_end(api: Api, tenant: Tenant) -> None:
    with (
        running(FakeBackend(is_endless=True).app()) as backend,
        process(api.settings, LUTHIER_BACKENDS=f"tiny-random={backend}") as (url, child),
        openai.OpenAI(base_url=f"{url}/v1", api_key=tenant.key, max_retries=0) as client,
    ):
        stream = ask(client, stream=True)
        for _ in range(5):
            next(stream)
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) is not None
    assert sums(api, tenant) == {"tiny-random": (3, 1, 5, 1)}


@pytest.mark.parametrize(
    "failure", [OperationalError("INSERT", {}, Exception("gone")), OtherSchema("9999")]
)
def test_what_could_not_be_written_is_written_later(
    api: Api, tenant: Tenant, failure: Exception
) -> None:
    class Failing(Database):
        is_down = True

        async def run(self, *args: Any, **kwargs: Any) -> Any:
            if self.is_down:
                raise failure
            return await super().run(*args, **kwargs)

    async def count() -> None:
        database = Failing(api.settings.database_url)
        meter = Meter(database, clock=lambda: 1_700_000_030.0)
        caller = Caller("key_1", "project", tenant.project_id, "org", "acme")
        meter.count(caller, "m", USAGE, is_batch=False)
        await meter.flush()
        meter.count(caller, "m", {"prompt_tokens": "many", "completion_tokens": -1}, is_batch=False)
        meter.count(caller, "m", None, is_batch=False)
        database.is_down = False
        await meter.flush()
        await meter.flush()
        await database.close()

    asyncio.run(count())
    (row,) = rows(api, tenant)
    assert (row.input_tokens, row.output_tokens, row.num_requests) == (3, 2, 3)
    assert row.minute.timestamp() == 1_699_999_980
    assert row.minute.timestamp() < time.time()
