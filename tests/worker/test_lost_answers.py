"""The answer to a commit gets lost: each write of a worker takes effect once, whatever had become of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from foundation.vault import Vault
from storage import leases, transactions
from storage.jobs import events, jobs, pauses
from storage.jobs.jobs import JobRow
from storage.transactions import Transaction
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from tests.factories import colour_rows
from tests.worker.lossy import FATES, Fate, commits
from tests.worker.scene import Scene, assert_as_if_nothing_broke
from worker.endings import JobFailed, Setback
from worker.job import finish, resume
from worker.job.run import run
from worker.lease import Lease
from worker.worker import Worker

Write = Callable[[Worker, Lease, int], object]


def step(_: Worker, lease: Lease, number: int) -> None:
    def write(session: Session) -> None:
        events.add(session, lease.job.id, f"step:{number}", str(number), data={"step": number})

    lease.write(write, status="running")


def resume_point(_: Worker, lease: Lease, number: int) -> list[Any]:
    point = {"key": f"step-{number}", "step": number}
    return lease.write(lambda session: jobs.add_resume_point(session, lease.claim, point))


def unusable_state(_: Worker, lease: Lease, __: int) -> None:
    resume.discard_newest(lease, "It is no good")


def set_back(worker: Worker, lease: Lease, number: int) -> bool:
    return finish.set_back(worker, lease, Setback("It broke", step=number))


def give_back(_: Worker, lease: Lease, __: int) -> None:
    finish.give_back(lease)


def postpone(_: Worker, lease: Lease, __: int) -> None:
    finish.postpone(lease, 0.0)


def succeed(_: Worker, lease: Lease, __: int) -> None:
    def write(session: Session) -> None:
        jobs.succeed(session, lease.claim, trained_tokens=7)
        events.add(session, lease.job.id, "succeeded", "Done", data={})

    lease.end(write)


def fail(worker: Worker, lease: Lease, __: int) -> None:
    finish.fail(worker, lease, JobFailed("invalid", "It cannot be done"))


def pause(_: Worker, lease: Lease, __: int) -> bool:
    def ask(session: Session) -> None:
        pauses.pause(session, lease.job.project_id, lease.job.id)

    lease.write(ask)
    return finish.pause(lease)


WRITES: list[Write] = [step, resume_point, unusable_state]
"""The worker goes on after these."""
ENDS: list[Write] = [set_back, give_back, postpone, succeed, fail, pause]


def told(scene: Scene, job_id: str) -> dict[str, Any]:
    """What there is of a job, without what differs from one to the next."""
    job = scene.row(job_id)
    names = ("status", "attempt", "crashes", "lease_token", "lease_owner", "resume_points", "error")
    with scene.sessions() as session:
        deliveries = session.scalar(
            select(func.count()).where(WebhookDeliveryRow.object_id == job_id)
        )
    return {
        **{name: getattr(job, name) for name in names},
        "has_lease": job.lease_expires_at is not None,
        "is_finished": job.finished_at is not None,
        "events": [(e.message.replace(job_id, ""), e.level, e.data) for e in scene.events(job_id)],
        "deliveries": deliveries,
    }


def write_all(worker: Worker, job_id: str, writes: list[Write], end: Write) -> list[object]:
    claiming = Transaction(worker.sessions, lambda s: leases.claim(s, JobRow, job_id, "me"))
    claim = claiming.run(lambda: math.inf)
    assert claim is not None
    lease = Lease(worker.sessions, claim)
    results = [write(worker, lease, number) for number, write in enumerate(writes, 1)]
    lease._heartbeat.start()
    return [*results, end(worker, lease, len(writes))]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    writes=st.lists(st.sampled_from(WRITES), max_size=4),
    end=st.sampled_from(ENDS),
    fates=st.lists(st.sampled_from(FATES), max_size=10),
)
def test_writes_take_effect_once_whatever_becomes_of_their_commits(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    writes: list[Write],
    end: Write,
    fates: list[Fate],
) -> None:
    monkeypatch.setattr(transactions, "RETRY_S", 0)
    if not scene.workers:
        with scene.sessions.begin() as session:
            types = webhooks.EVENT_TYPES
            url = "https://x.invalid/"
            webhooks.create(
                session, scene.project_id, Vault(), name="x", url=url, event_types=types
            )
    worker = scene.workers[-1] if scene.workers else scene.worker()
    expected_id, job_id = scene.job(), scene.job()
    expected = write_all(worker, expected_id, writes, end)
    with commits(worker.engine, fates):
        results = write_all(worker, job_id, writes, end)
    assert results == expected
    assert told(scene, job_id) == told(scene, expected_id)


@pytest.mark.parametrize("lost", FATES[1:])
def test_job_whose_every_other_commit_is_unanswered_comes_out_as_if_nothing_broke(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, lost: Fate
) -> None:
    monkeypatch.setattr(transactions, "RETRY_S", 0)
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    with commits(worker.engine, itertools.cycle((lost, "answered"))):
        run(worker)
    assert scene.row(job_id).crashes == 0
    assert_as_if_nothing_broke(scene, job_id, finished)
