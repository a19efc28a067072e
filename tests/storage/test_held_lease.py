"""A write under a lease renews and checks it by itself, whatever kind of row it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.orm import Session, sessionmaker

from storage import leases
from storage.held_lease import HeldLease
from storage.inference import batches
from storage.inference.batches import BatchRow
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.leases import Claim, Leased, LostLease
from tests.storage.rows import add_batch, add_job

Database = sessionmaker[Session]
Add = Callable[[Session, str], Leased]

KINDS: dict[type[Leased], Add] = {JobRow: add_job, BatchRow: add_batch}


def cancel(session: Session, held: Claim[Any]) -> None:
    """A batch that is cancelled has its owner wind it up; it ends at once only with nobody to do so."""
    row = held.row
    if isinstance(row, JobRow):
        jobs.cancel(session, row.project_id, row.id)
    else:
        batches.end(session, held, "cancelled")


def change_hands(session: Session, held: Claim[Any]) -> None:
    leases.expire(session, type(held.row), ["me"])
    assert leases.claim(session, type(held.row), held.row.id, "another") is not None


LOSSES: list[Callable[[Session, Claim[Any]], None]] = [
    cancel,
    change_hands,
    lambda session, held: leases.release(session, held),
    lambda session, held: leases.expire(session, type(held.row), ["me"]),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def lease(request: pytest.FixtureRequest, database: Database, project_id: str) -> HeldLease[Any]:
    kind = request.param
    with database.begin() as session:
        held = leases.claim(session, kind, KINDS[kind](session, project_id).id, "me")
    assert held is not None
    return HeldLease(database, held)


def stored(database: Database, lease: HeldLease[Any]) -> dict[str, Any]:
    table = type(lease.row).__table__
    with database() as session:
        return dict(session.execute(select(table).filter_by(id=lease.row.id)).one()._mapping)


@pytest.mark.parametrize("lose", LOSSES)
def test_write_under_a_lost_lease_runs_no_work_at_all(
    database: Database, lease: HeldLease[Any], lose: Callable[[Session, Claim[Any]], None]
) -> None:
    calls: list[str] = []
    lease.on_lost = lambda: calls.append("lost")
    with database.begin() as session:
        lose(session, lease.claim)
    before = stored(database, lease)
    for write in (lease.write, lease.write, lease.end):
        with pytest.raises(LostLease):
            write(lambda _: calls.append("work"))
    with pytest.raises(LostLease):
        lease.write(lambda _: calls.append("work"), crashes=7)
    assert calls == ["lost"]
    assert stored(database, lease) == before


def test_write_extends_the_lease_and_shows_the_row_as_it_stands(
    database: Database, lease: HeldLease[Any]
) -> None:
    first = lease.claim
    with database.begin() as session:
        kind = type(first.row)
        session.execute(update(kind).where(kind.id == first.row.id).values(status=kind.RUNNABLE[1]))
    assert lease.write(lambda _: "result", crashes=2) == "result"
    assert (lease.row.status, lease.row.crashes) == (first.row.RUNNABLE[1], 2)
    assert lease.claim.lease_token == first.lease_token
    assert lease.claim.looked_at > first.looked_at
    extended = stored(database, lease)["lease_expires_at"]
    assert extended == lease.claim.looked_at + timedelta(seconds=lease.row.LEASE_S)


def test_work_that_fails_leaves_the_row_and_what_is_known_of_it(
    database: Database, lease: HeldLease[Any]
) -> None:
    first, before = lease.claim, stored(database, lease)

    def fail(_: Session) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        lease.write(fail, crashes=2)
    assert lease.claim is first
    assert stored(database, lease) == before


def test_look_whose_answer_comes_late_does_not_hide_a_newer_one(
    database: Database, lease: HeldLease[Any]
) -> None:
    # Before the first write hears that it is committed, the heartbeat's is done.
    event.listen(database, "after_commit", lambda _: lease.write(count), once=True)

    def count(session: Session) -> None:
        leases.write(session, lease.claim, crashes=1)

    lease.renew()
    assert lease.row.crashes == 1
