from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import openai
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import InvalidRequest, NotFound
from foundation.vault import Vault
from storage import leases
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.organization import projects
from storage.webhooks import deliveries as webhook_deliveries
from storage.webhooks import post as webhook_post
from storage.webhooks import turns as webhook_turns
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from storage.webhooks.webhooks import WebhookEndpointRow
from tests.storage.rows import add_job

Database = sessionmaker[Session]


def endpoint(database: Database, project_id: str, **values: Any) -> WebhookEndpointRow:
    with database.begin() as session:
        return webhooks.create(
            session,
            project_id,
            Vault(),
            **{
                "name": "Tests",
                "url": "https://example.com/hook",
                "event_types": webhooks.EVENT_TYPES,
                **values,
            },
        )


def record(database: Database, project_id: str, object_id: str = "ftjob-1") -> None:
    with database.begin() as session:
        webhooks.record(session, project_id, "fine_tuning.job.succeeded", object_id)


def deliveries(database: Database) -> list[WebhookDeliveryRow]:
    with database() as session:
        return list(session.scalars(select(WebhookDeliveryRow).order_by(WebhookDeliveryRow.id)))


def take(
    database: Database, num_places: int = 10, under_way: Mapping[str, str] | None = None
) -> list[WebhookDeliveryRow]:
    with database.begin() as session:
        return [row for row, _ in webhook_turns.take(session, num_places, under_way or {})]


def make_due(database: Database, **values: Any) -> None:
    with database.begin() as session:
        session.execute(
            update(WebhookDeliveryRow).values(
                due_at=func.clock_timestamp() - timedelta(seconds=1), **values
            )
        )


def test_event_goes_to_every_endpoint_that_wants_it(database: Database, project_id: str) -> None:
    wanted = {endpoint(database, project_id).id for _ in range(2)}
    endpoint(database, project_id, event_types=["batch.failed"])
    with database.begin() as session:
        other_project_id = projects.create(session, "Other").id
    endpoint(database, other_project_id)
    record(database, project_id)
    rows = deliveries(database)
    assert {row.endpoint_id for row in rows} == wanted
    assert len({row.event_id for row in rows}) == 1
    assert json.loads(rows[0].body()) == {
        "id": rows[0].event_id,
        "object": "event",
        "created_at": int(rows[0].created_at.timestamp()),
        "type": "fine_tuning.job.succeeded",
        "data": {"id": "ftjob-1"},
    }


def succeed(session: Session, job_id: str) -> None:
    claim = leases.claim(session, JobRow, job_id, "me")
    assert claim is not None
    jobs.succeed(session, claim)


def fail(session: Session, job_id: str) -> None:
    claim = leases.claim(session, JobRow, job_id, "me")
    assert claim is not None
    jobs.fail(session, claim, code="x", message="x")


def cancel(session: Session, job_id: str) -> None:
    job = session.get(jobs.JobRow, job_id)
    assert job is not None
    jobs.cancel(session, job.project_id, job_id)


@pytest.mark.parametrize(
    ("end", "type"),
    [
        (succeed, "fine_tuning.job.succeeded"),
        (fail, "fine_tuning.job.failed"),
        (cancel, "fine_tuning.job.cancelled"),
    ],
)
def test_job_that_ends_is_told_in_the_same_transaction(
    database: Database, project_id: str, end: Callable[[Session, str], None], type: str
) -> None:
    endpoint(database, project_id)
    with database() as session:
        job_id = add_job(session, project_id).id
        session.commit()
        end(session, job_id)
        session.rollback()
    assert deliveries(database) == []
    with database.begin() as session:
        end(session, job_id)
    assert [(row.type, row.object_id) for row in deliveries(database)] == [(type, job_id)]


def test_endpoint_that_is_deleted_takes_its_deliveries_along(
    database: Database, project_id: str
) -> None:
    gone = endpoint(database, project_id)
    record(database, project_id)
    with database.begin() as session:
        webhooks.remove(session, project_id, gone.id)
        with pytest.raises(NotFound):
            webhooks.get(session, project_id, gone.id)
    assert deliveries(database) == []


def test_delivery_is_taken_once_and_again_when_its_taker_died(
    database: Database, project_id: str
) -> None:
    endpoint(database, project_id)
    record(database, project_id)
    (first,) = take(database)
    assert take(database) == []
    make_due(database)
    (second,) = take(database)
    assert (second.id, second.body()) == (first.id, first.body())
    assert (first.attempts, second.attempts) == (1, 2)
    with database.begin() as session:
        # What the dead one would have said counts for nothing.
        webhook_deliveries.delivered(session, first)
    assert len(deliveries(database)) == 1
    with database.begin() as session:
        webhook_deliveries.delivered(session, second)
    assert deliveries(database) == []


def test_endpoint_gets_one_delivery_at_a_time_and_does_not_keep_others_waiting(
    database: Database, project_id: str
) -> None:
    slow, quick = endpoint(database, project_id), endpoint(database, project_id)
    for number in range(3):
        record(database, project_id, f"ftjob-{number}")
    taken = take(database)
    assert {row.endpoint_id for row in taken} == {slow.id, quick.id}
    assert {row.object_id for row in taken} == {"ftjob-0"}
    assert {row.endpoint_id for row in take(database, under_way={slow.id: project_id})} == {
        quick.id
    }


def test_failed_delivery_waits_longer_each_time_and_ends_after_three_days(
    database: Database, project_id: str
) -> None:
    endpoint(database, project_id)
    record(database, project_id)
    (row,) = take(database)
    with database.begin() as session:
        assert webhook_deliveries.failed(session, row)
    assert take(database) == []
    make_due(database, created_at=func.clock_timestamp() - timedelta(hours=73))
    (row,) = take(database)
    with database.begin() as session:
        assert not webhook_deliveries.failed(session, row)
    assert deliveries(database) == []


def test_pauses_double_up_to_six_hours_and_vary() -> None:
    for attempts, pause_s in ((1, 5.0), (2, 10.0), (5, 80.0), (13, 20480.0), (400, 6 * 3600.0)):
        pauses = {webhook_deliveries.pause_s(attempts) for _ in range(20)}
        assert all(0.75 * pause_s <= p <= 1.25 * pause_s for p in pauses)
        assert len(pauses) > 1


def test_client_accepts_the_signature_of_each_live_secret_and_no_other(
    database: Database, project_id: str
) -> None:
    row = endpoint(database, project_id)
    client = openai.OpenAI(api_key="unused")
    body = webhook_deliveries.event_body("evt_1", "fine_tuning.job.failed", "ftjob-1", 7)

    def accepts(secret: str, secrets: list[str]) -> bool:
        now = int(row.created_at.timestamp())
        headers = webhook_post.signed_headers("wh_1", now, body, secrets)
        try:
            event = client.webhooks.unwrap(body, headers, secret=secret)
        except openai.InvalidWebhookSignatureError:
            return False
        assert event.type == "fine_tuning.job.failed"
        assert event.data.id == "ftjob-1"
        return True

    def rotate(*, keep_old: bool) -> tuple[str, list[str]]:
        with database.begin() as session:
            it = webhooks.rotate_secret(session, project_id, row.id, Vault(), keep_old=keep_old)
            return it.secret, webhooks.live_secrets(session, it)

    old = row.secret
    new, live = rotate(keep_old=True)
    assert accepts(new, live)
    assert accepts(old, live)
    newest, live = rotate(keep_old=False)
    assert accepts(newest, live)
    assert not accepts(new, live)
    rotate(keep_old=True)
    with database.begin() as session:
        it = webhooks.get(session, project_id, row.id)
        it.old_secret_expires_at = it.created_at
        session.flush()
        assert webhooks.live_secrets(session, it) == [it.secret]


def test_project_has_a_limit_of_endpoints(
    database: Database, project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_ENDPOINTS", 1)
    endpoint(database, project_id)
    with pytest.raises(InvalidRequest, match="1 webhook endpoints at most"):
        endpoint(database, project_id)


def test_update_moves_its_time_only_if_something_changes(
    database: Database, project_id: str
) -> None:
    row = endpoint(database, project_id)
    with database.begin() as session:
        same = webhooks.update(session, project_id, row.id, name="Tests")
        assert same.updated_at == row.updated_at
        changed = webhooks.update(session, project_id, row.id, event_types=["batch.failed"])
        assert changed.updated_at > row.updated_at
        assert (changed.name, changed.event_types) == ("Tests", ["batch.failed"])
