"""Whoever has let go of something, or was found dead, has it no more: what comes late is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from storage import idempotency_keys, leases
from storage.forecasts import forecasts
from storage.idempotency_keys import Owner, StoredReply
from storage.inference import batches
from storage.inference.batches import BatchRow
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.leases import Claim, LostLease
from storage.organization import projects
from tests.storage.rows import add_batch, add_job

Database = sessionmaker[Session]


LET_GO_OF_JOB: list[Callable[[Session, Claim[JobRow]], None]] = [
    lambda session, claim: leases.release(session, claim),
    lambda session, claim: leases.release(session, claim, after_s=60),
    lambda session, claim: leases.release(session, claim, is_crash=True),
    lambda session, _: leases.expire(session, JobRow, ["me"]),
]
LATE_FOR_JOB: list[Callable[[Session, Claim[JobRow]], object]] = [
    lambda session, claim: leases.renew(session, claim),
    lambda session, claim: leases.release(session, claim),
    lambda session, claim: jobs.add_resume_point(session, claim, {"key": "k"}),
    lambda session, claim: jobs.succeed(session, claim),
    lambda session, claim: jobs.fail(session, claim, code="c", message="m"),
]
LET_GO_OF_BATCH: list[Callable[[Session, Claim[BatchRow]], None]] = [
    lambda session, claim: leases.release(session, claim),
    lambda session, claim: leases.release(session, claim, after_s=60, is_crash=True),
    lambda session, _: leases.expire(session, BatchRow, ["me"]),
]
LATE_FOR_BATCH: list[Callable[[Session, Claim[BatchRow]], object]] = [
    lambda session, claim: leases.renew(session, claim),
    lambda session, claim: batches.begin(session, claim, model=None, num_lines=1),
    lambda session, claim: batches.finalize(session, claim),
    lambda session, claim: leases.release(session, claim),
    lambda session, claim: batches.end(session, claim, "completed"),
]


def columns(database: Database, row: type[JobRow | BatchRow], id: str) -> dict[str, Any]:
    with database() as session:
        return dict(session.execute(select(row.__table__).filter_by(id=id)).one()._mapping)


def test_job_that_was_let_go_of_takes_no_late_write(database: Database, project_id: str) -> None:
    for let_go, late in itertools.product(LET_GO_OF_JOB, LATE_FOR_JOB):
        with database.begin() as session:
            job_id = add_job(session, project_id).id
            claim = leases.claim(session, JobRow, job_id, "me")
            assert claim is not None
            let_go(session, claim)
        before = columns(database, JobRow, job_id)
        with pytest.raises(LostLease), database.begin() as session:
            late(session, claim)
        assert columns(database, JobRow, job_id) == before


def test_batch_that_was_let_go_of_takes_no_late_write(database: Database, project_id: str) -> None:
    for let_go, late in itertools.product(LET_GO_OF_BATCH, LATE_FOR_BATCH):
        with database.begin() as session:
            batch_id = add_batch(session, project_id).id
            claim = leases.claim(session, BatchRow, batch_id, "me")
            assert claim is not None
            let_go(session, claim)
        before = columns(database, BatchRow, batch_id)
        with pytest.raises(LostLease), database.begin() as session:
            late(session, claim)
        assert columns(database, BatchRow, batch_id) == before


def test_idempotency_key_that_was_let_go_of_takes_no_late_write(database: Database) -> None:
    owner = Owner("proj", "key", "made-up")
    with database.begin() as session:
        first = idempotency_keys.claim(session, owner)
        assert isinstance(first, str)
        idempotency_keys.release(session, owner, first)
        second = idempotency_keys.claim(session, owner)
        assert isinstance(second, str)
        idempotency_keys.renew(session, owner, first)
        idempotency_keys.release(session, owner, first)
        idempotency_keys.keep(
            session, owner, first, StoredReply("f", 1, 200, "text/plain", b"late")
        )
        # The second still has it, and its reply is the one that is kept.
        assert idempotency_keys.claim(session, owner) is None
        reply = StoredReply("f", 1, 200, "text/plain", b"in time")
        idempotency_keys.keep(session, owner, second, reply)
        assert idempotency_keys.claim(session, owner) == reply


def test_projects_take_turns_at_the_places_of_a_process(database: Database) -> None:
    """Who has the fewest under way comes first, then who was served longest ago."""
    with database.begin() as session:
        busy, other = (projects.create(session, name).id for name in ("Busy", "Other"))
        asked = {"base_model": "b", "method": "supervised"}
        waiting = [
            forecasts.create(session, project_id=project_id, asked=asked).id
            for project_id in (busy, busy, busy, other)
        ]

    def claimed(owner: str, num_places: int) -> str | None:
        with database.begin() as session:
            claim = forecasts.claim(session, owner, num_places)
            return None if claim is None else claim.row.id

    assert [claimed("me", 3) for _ in range(4)] == [waiting[0], waiting[3], waiting[1], None]
    assert claimed("another", 1) == waiting[2]
