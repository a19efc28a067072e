from __future__ import annotations

import threading
from collections.abc import Iterator

import openai
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

import errands.webhooks
from errands.webhooks import Webhooks
from foundation.vault import Vault
from storage.database import sessions, sync_engine
from storage.organization import projects
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from tests.receiver import Received, Receiver, receiver
from tests.worker.scene import wait_for

Database = sessionmaker[Session]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    engine = sync_engine(database_url)
    yield sessions(engine)
    # What is noted may still be on its way to the pool.
    wait_for(lambda: not any(thread.name.startswith("webhook") for thread in threading.enumerate()))
    engine.dispose()


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as it:
        yield it


@pytest.fixture
def delivering(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(errands.webhooks, "POLL_S", 0.05)
    it = Webhooks(database, Vault(), allow_private=True)
    it.start()
    yield
    it.stop()


def endpoint(database: Database, url: str) -> webhooks.WebhookEndpointRow:
    with database.begin() as session:
        project_id = projects.create(session, "Test").id
        return webhooks.create(
            session, project_id, Vault(), name="Tests", url=url, event_types=webhooks.EVENT_TYPES
        )


def record(database: Database, to: webhooks.WebhookEndpointRow, object_id: str = "ftjob-1") -> None:
    with database.begin() as session:
        webhooks.record(session, to.project_id, "fine_tuning.job.succeeded", object_id)


def num_due(database: Database) -> int:
    with database() as session:
        return session.scalar(select(func.count()).select_from(WebhookDeliveryRow)) or 0


def object_of(received: Received, secret: str) -> str:
    """What the client reads from it, once it has checked the signature."""
    client = openai.OpenAI(api_key="unused", webhook_secret=secret)
    event = client.webhooks.unwrap(received.body, received.headers)
    assert event.type == "fine_tuning.job.succeeded"
    return event.data.id


@pytest.mark.usefixtures("delivering")
def test_event_reaches_its_endpoint_signed_and_once(database: Database, hooks: Receiver) -> None:
    to = endpoint(database, f"{hooks.url}/hook")
    record(database, to)
    wait_for(lambda: num_due(database) == 0)
    (received,) = hooks.received
    assert (received.path, received.headers["content-type"]) == ("/hook", "application/json")
    assert object_of(received, to.secret) == "ftjob-1"


def test_refused_delivery_is_made_again_under_the_same_id(
    database: Database, hooks: Receiver
) -> None:
    to = endpoint(database, hooks.url)
    record(database, to)
    hooks.answers = [500, 302]
    for attempt in (1, 2, 3):
        it = Webhooks(database, Vault(), allow_private=True)
        it.once()
        wait_for(lambda n=attempt: len(hooks.received) == n)  # type: ignore[misc]
        if attempt < 3:
            wait_for(lambda: is_put_off(database))
            with database.begin() as session:
                session.execute(update(WebhookDeliveryRow).values(due_at=func.clock_timestamp()))
    wait_for(lambda: num_due(database) == 0)
    assert len({received.headers["webhook-id"] for received in hooks.received}) == 1
    assert len({received.body for received in hooks.received}) == 1


def is_put_off(database: Database) -> bool:
    """Noted as failed: due much sooner than where taking it had put it."""
    with database() as session:
        left = select(func.extract("epoch", WebhookDeliveryRow.due_at - func.clock_timestamp()))
        return float(session.scalars(left).one()) < 60


@pytest.mark.usefixtures("delivering")
def test_endpoint_that_hangs_keeps_no_other_waiting(database: Database, hooks: Receiver) -> None:
    with receiver() as stuck:
        stuck.is_held.clear()
        slow, quick = endpoint(database, stuck.url), endpoint(database, hooks.url)
        for number in range(5):
            record(database, slow, f"ftjob-{number}")
        wait_for(lambda: len(stuck.received) == 1)
        for number in range(5):
            record(database, quick, f"ftjob-{number}")
        wait_for(lambda: len(hooks.received) == 5)
        assert len(stuck.received) == 1
    assert [object_of(r, quick.secret) for r in hooks.received] == [f"ftjob-{n}" for n in range(5)]


@pytest.mark.usefixtures("delivering")
def test_project_with_many_endpoints_that_hang_keeps_no_other_waiting(
    database: Database, hooks: Receiver
) -> None:
    with receiver() as tarpit:
        tarpit.is_held.clear()
        slow = endpoint(database, tarpit.url)
        with database.begin() as session:
            for _ in range(40):
                webhooks.create(
                    session,
                    slow.project_id,
                    Vault(),
                    name="Tests",
                    url=tarpit.url,
                    event_types=webhooks.EVENT_TYPES,
                )
        for number in range(10):
            record(database, slow, f"ftjob-{number}")
        wait_for(lambda: len(tarpit.received) >= 4)
        record(database, endpoint(database, hooks.url))
        wait_for(lambda: len(hooks.received) == 1)
        # None of them has been answered: the other one waited for nobody.
        assert len(tarpit.received) <= 8
        assert num_due(database) >= 410


def test_private_address_is_not_posted_to(database: Database, hooks: Receiver) -> None:
    record(database, endpoint(database, hooks.url.replace("http://", "https://")))
    it = Webhooks(database, Vault(), allow_private=False)
    it.once()
    wait_for(lambda: is_put_off(database))
    assert hooks.received == []
    assert num_due(database) == 1
