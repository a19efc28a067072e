"""A database that hangs: it takes what it is sent, and neither answers nor refuses."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from api import database, health
from api.database import Database, NoAnswer
from api.fine_tuning import event_feed
from embedded.postgres import Postgres
from storage.database import REQUEST_LIMITS
from tests import servers
from tests.api.fine_tuning.stream_reader import add, follow, job, take
from tests.api.stack import Api, Tenant, running_api, wait_until

DEADLINE_S = 0.4
LONG_S = 10.0
"""Less than what the driver and the server's own limits take, and far more than the deadlines here."""

SOON_S = 20.0
freezes = pytest.mark.parametrize("is_server_too", [False, True])


@contextmanager
def hurry() -> Iterator[None]:
    """Short deadlines, where nothing is expected to come in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "DEADLINE_S", DEADLINE_S)
        patch.setattr(database, "DEADLINE_IN_DOUBT_S", DEADLINE_S / 2)
        patch.setattr(database, "DOUBT_S", DEADLINE_S)
        patch.setattr(database, "CANCEL_GRACE_S", DEADLINE_S / 2)
        patch.setattr(health, "CHECK_TIMEOUT_S", DEADLINE_S)
        patch.setattr(health, "REUSE_S", 0.0)
        yield


@pytest.fixture
def own(api: Api) -> Iterator[Api]:
    """An api whose connections are nobody else's."""
    with running_api(api.settings.replace()) as own:
        yield own


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Of a database that accepts connections, and that is all."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"postgresql://luthier@127.0.0.1:{server.getsockname()[1]}/luthier"


def test_a_request_waits_for_about_five_seconds_at_most() -> None:
    # Who asks while another's question hangs waits for that one's deadline and then for a short one.
    assert database.DEADLINE_S + database.DEADLINE_IN_DOUBT_S <= 5
    assert health.CHECK_TIMEOUT_S <= 2
    # What the server can still tell by itself, it tells.
    assert REQUEST_LIMITS.statement_ms < 1000 * database.DEADLINE_S
    assert REQUEST_LIMITS.lock_ms < REQUEST_LIMITS.statement_ms


@freezes
def test_requests_are_answered_while_it_hangs_and_done_when_it_goes_on(
    own: Api, postgres: Postgres, *, is_server_too: bool
) -> None:
    tenant = own.tenant()
    with own.http(tenant) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/readyz").status_code == 200
        replies: list[httpx.Response] = []
        with servers.frozen(postgres, is_server_too=is_server_too), hurry():
            started_at = time.monotonic()
            crowd = [
                threading.Thread(target=lambda: replies.append(http.get("/v1/files", timeout=60)))
                for _ in range(20)
            ]
            for thread in crowd:
                thread.start()
            for thread in crowd:
                thread.join()
            readiness = http.get("/readyz", timeout=60)
            waited_s = time.monotonic() - started_at
        assert waited_s < LONG_S
        assert len(replies) == 20
        if is_server_too:
            assert {reply.status_code for reply in replies} == {503}
            assert readiness.status_code == 503
            assert readiness.json()["checks"]["database"] == "not answering in time"
        for reply in replies:
            if reply.status_code == 503:
                assert int(reply.headers["retry-after"]) > 0
                assert reply.json()["error"]["type"] == "server_error"
                assert "cannot reach its database" in reply.json()["error"]["message"]
        for path in ("/v1/models", "/readyz"):
            wait_until(lambda path=path: http.get(path).status_code == 200, SOON_S)


def test_a_connection_that_never_comes_about_is_given_up(api: Api, silent_url: str) -> None:
    with running_api(api.settings.replace(database_url=silent_url)) as front, hurry():
        with front.http(Tenant("proj_1", "sk-1")) as http:
            started_at = time.monotonic()
            reply = http.get("/v1/models", timeout=60)
            readiness = http.get("/readyz", timeout=60)
        assert time.monotonic() - started_at < LONG_S
    assert reply.status_code == readiness.status_code == 503
    assert readiness.json()["checks"]["database"] == "not answering in time"


def test_streams_and_counts_go_on_afterwards(
    own: Api, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "POLL_S", 0.02)
    tenant = own.tenant()
    job_id = job(own, tenant)
    with own.http(tenant) as http, follow(http, job_id) as followed:
        take(followed, 1)
        with servers.frozen(postgres, is_server_too=True), hurry():
            time.sleep(3 * DEADLINE_S)
        add(own, job_id, "after")
        (event,) = take(followed, 1)
    assert event["message"] == "after"


def test_what_hung_holds_no_connection(database_url: str, postgres: Postgres) -> None:
    async def use() -> None:
        db = Database(database_url)
        answers = await asyncio.gather(*(db.run(_one) for _ in range(20)))
        assert answers == [1] * 20
        with servers.frozen(postgres, is_server_too=True), hurry():
            failures = await asyncio.gather(
                *(db.run(_one) for _ in range(40)), return_exceptions=True
            )
            assert {type(failure) for failure in failures} == {NoAnswer}
            caller = asyncio.create_task(db.read(_one))
            await asyncio.sleep(0)
            caller.cancel()
            # Whoever is cancelled is free at once, whatever the driver does about it.
            done, _ = await asyncio.wait({caller}, timeout=LONG_S)
            assert done
            while db._breaking_off:
                await asyncio.wait(db._breaking_off)
            assert db._engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        await asyncio.sleep(DEADLINE_S)  # until a whole deadline is granted again
        assert await db.run(_one) == 1
        await db.close()

    started_at = time.monotonic()
    asyncio.run(use())
    assert time.monotonic() - started_at < LONG_S


def test_a_query_that_takes_too_long_is_broken_off_at_the_server(database_url: str) -> None:
    async def use() -> None:
        db = Database(database_url)
        await db.run(_one)
        with hurry(), pytest.raises(NoAnswer):
            await db.run(_sleep)
        await asyncio.wait(db._breaking_off, timeout=LONG_S)
        assert await db.run(_others_at_work) == []
        await db.close()

    asyncio.run(use())


def _one(session: Session) -> int:
    return session.scalar(select(1)) or 0


def _others_at_work(session: Session) -> list[str]:
    """What else this database is doing."""
    query = (
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() "
        "AND state = 'active' AND pid <> pg_backend_pid()"
    )
    return list(session.scalars(text(query)))


def _sleep(session: Session) -> None:
    session.execute(text("SELECT pg_sleep(60)"))
