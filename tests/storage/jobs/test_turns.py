"""Whose turn it is: the projects' in turn, however many jobs one of them has queued."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from storage import leases
from storage.jobs import jobs, pauses
from storage.jobs import turns as job_turns
from storage.jobs.jobs import JobRow
from storage.leases import Claim
from storage.organization import projects
from tests.storage.rows import add_job

from .test_jobs import expire

Database = sessionmaker[Session]


def new_project(database: Database) -> str:
    with database.begin() as session:
        return projects.create(session, "Another").id


def new_jobs(database: Database, project_id: str, count: int, **values: Any) -> list[str]:
    with database.begin() as session:
        return [add_job(session, project_id, **values).id for _ in range(count)]


def claim_next(database: Database, owner: str = "me") -> Claim[JobRow] | None:
    with database.begin() as session:
        return job_turns.claim_next(session, owner)


def taken(database: Database) -> JobRow:
    claim = claim_next(database)
    assert claim is not None
    return claim.row


def done(database: Database) -> JobRow:
    """The next job, which succeeds at once."""
    claim = claim_next(database)
    assert claim is not None
    with database.begin() as session:
        jobs.succeed(session, claim)
    return claim.row


def test_jobs_of_one_project_do_not_go_before_another_s(
    database: Database, project_id: str
) -> None:
    many = new_jobs(database, project_id, 60)
    other = new_project(database)
    few = new_jobs(database, other, 2)
    order = [done(database).id for _ in range(5)]
    assert order == [many[0], few[0], many[1], few[1], many[2]]
    # Who comes back after a while has not saved up turns, and does not wait either.
    (late,) = new_jobs(database, other, 1)
    assert [done(database).id for _ in range(3)] == [late, many[3], many[4]]


def test_project_with_the_fewest_jobs_under_way_is_next(
    database: Database, project_id: str
) -> None:
    new_jobs(database, project_id, 10)
    for _ in range(3):
        assert taken(database).project_id == project_id
    others = [new_project(database) for _ in range(2)]
    for other in others:
        new_jobs(database, other, 3)
    assert [taken(database).project_id for _ in range(7)] == [*others, *others, *others, project_id]


def test_job_of_a_killed_worker_goes_on_before_younger_ones_begin(
    database: Database, project_id: str
) -> None:
    (first,) = new_jobs(database, project_id, 1)
    taken(database)
    for _ in range(5):
        new_jobs(database, new_project(database), 3)
    expire(database)
    job = taken(database)
    assert (job.id, job.crashes) == (first, 1)


def test_job_that_its_worker_gave_back_in_the_middle_goes_on_first(
    database: Database, project_id: str
) -> None:
    (first,) = new_jobs(database, project_id, 1)
    claim = claim_next(database)
    assert claim is not None
    new_jobs(database, new_project(database), 3)
    with database.begin() as session:
        leases.renew(session, claim, status="running")
        leases.release(session, claim)
    assert taken(database).id == first


def test_job_that_waits_or_pauses_or_is_taken_or_over_has_no_turn(
    database: Database, project_id: str
) -> None:
    (later, paused, cancelled, free) = new_jobs(database, project_id, 4)
    with database.begin() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == later)
            .values(not_before=func.now() + timedelta(minutes=1))
        )
        pauses.pause(session, project_id, paused)
        jobs.cancel(session, project_id, cancelled)
    assert taken(database).id == free
    assert claim_next(database) is None


def test_workers_that_choose_at_once_take_different_jobs(
    database: Database, project_id: str
) -> None:
    ids = new_jobs(database, project_id, 6)
    won: list[str] = []
    barrier = threading.Barrier(6)

    def race(owner: str) -> None:
        barrier.wait()
        claim = claim_next(database, owner)
        if claim is not None:
            won.append(claim.row.id)

    threads = [threading.Thread(target=race, args=(f"worker-{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(ids)


def test_worker_that_stops_while_it_claims_keeps_no_other_waiting(
    database: Database, project_id: str
) -> None:
    first, second = new_jobs(database, project_id, 2)
    with database.begin() as stopped:
        held = job_turns.claim_next(stopped, "stopped")
        assert held is not None
        assert held.row.id == first
        assert taken(database).id == second


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    queued=st.lists(st.integers(0, 6), min_size=2, max_size=5),
    choices=st.lists(st.booleans(), max_size=12),
)
def test_no_project_is_served_twice_while_another_with_as_few_under_way_waits(
    database: Database, project_id: str, queued: list[int], choices: list[bool]
) -> None:
    with database.begin() as session:
        session.execute(update(JobRow).values(status="cancelled", lease_owner=None))
    names = [new_project(database) for _ in queued]
    waiting = Counter(dict(zip(names, queued, strict=True)))
    for name, count in waiting.items():
        new_jobs(database, name, count)
    under_way: list[Claim[JobRow]] = []
    served: dict[str, int] = {}
    for turn, is_over in enumerate([*choices, *[False] * 3]):
        if is_over and under_way:
            with database.begin() as session:
                jobs.succeed(session, under_way.pop(0))
            continue
        claim = claim_next(database)
        if claim is None:
            assert not +waiting
            continue
        mine = claim.row.project_id
        running = Counter(each.row.project_id for each in under_way)
        for other in +waiting:
            assert (running[mine], served.get(mine, -1)) <= (running[other], served.get(other, -1))
        waiting[mine] -= 1
        served[mine] = turn
        under_way.append(claim)


def test_choice_among_ten_thousand_reads_a_handful(database: Database, project_id: str) -> None:
    new_jobs(database, project_id, 1)
    for _ in range(3):
        new_jobs(database, new_project(database), 2)
    names = [column.name for column in JobRow.__table__.columns if column.name != "id"]
    copied = ", ".join(names)
    with database.begin() as session:
        session.execute(
            text(
                f"INSERT INTO jobs (id, {copied}) SELECT 'ftjob-copy-' || n, {copied} "
                "FROM (SELECT * FROM jobs WHERE project_id = :project) AS one, "
                "generate_series(1, 10000) AS n"
            ),
            {"project": project_id},
        )
    with database.begin() as session:
        session.execute(text("ANALYZE jobs"))
    asked: list[tuple[str, Any]] = []
    with database() as session:

        @event.listens_for(session.connection(), "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            asked.append((statement, values))

        assert job_turns.claim_next(session, "me") is not None
        ((statement, values),) = asked
        session.rollback()
        plan = session.connection().exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values
        )
        (top,) = plan.scalar_one()
    assert rows_read(top["Plan"]) < 200


def rows_read(plan: dict[str, Any]) -> int:
    removed = sum(value for key, value in plan.items() if key.startswith("Rows Removed"))
    own = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return int(own) + sum(map(rows_read, plan.get("Plans", [])))


def test_claim_notes_when_a_project_was_served(database: Database, project_id: str) -> None:
    new_jobs(database, project_id, 1)
    job = taken(database)
    with database() as session:
        is_recent = select(job.claimed_at >= func.clock_timestamp() - timedelta(minutes=1))
        assert session.scalar(is_recent)


@pytest.mark.parametrize("num_projects", [1, 4])
def test_every_job_gets_its_turn(database: Database, project_id: str, num_projects: int) -> None:
    names = [project_id, *(new_project(database) for _ in range(num_projects - 1))]
    ids = [job_id for name in names for job_id in new_jobs(database, name, 3)]
    assert sorted(done(database).id for _ in ids) == sorted(ids)
    assert claim_next(database) is None
