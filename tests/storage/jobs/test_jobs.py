from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import InvalidRequest, JobNotFound
from storage import leases
from storage.jobs import events, jobs
from storage.jobs.jobs import JobRow
from storage.leases import Claim, LostLease
from storage.organization import projects
from tests.storage.rows import add_job

Database = sessionmaker[Session]


def new_job(database: Database, project_id: str, **values: Any) -> str:
    with database.begin() as session:
        return add_job(session, project_id, **values).id


def claim(database: Database, job_id: str, owner: str = "me") -> Claim[JobRow]:
    with database.begin() as session:
        claimed = leases.claim(session, JobRow, job_id, owner)
    assert claimed is not None
    return claimed


def row(database: Database, job_id: str) -> JobRow:
    with database() as session:
        found = session.get(JobRow, job_id)
    assert found is not None
    return found


def messages(database: Database, job_id: str) -> list[str]:
    with database() as session:
        page = events.page(session, job_id, after=None, limit=100)
    return [event.message for event in page.rows[::-1]]


def expire(database: Database) -> None:
    """Let every lease run out."""
    with database.begin() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.lease_expires_at.is_not(None))
            .values(lease_expires_at=JobRow.created_at - timedelta(seconds=1))
        )


def test_new_job_is_runnable_and_tells_of_its_creation(database: Database, project_id: str) -> None:
    job_id = new_job(database, project_id)
    job = row(database, job_id)
    assert (job.status, job.attempt, job.crashes, job.lease_token) == ("validating_files", 0, 0, 0)
    assert (job.result_files, job.resume_points) == ([], [])
    assert messages(database, job_id) == [f"Created fine-tuning job: {job_id}"]
    with database() as session:
        assert leases.runnable(session, JobRow, 99) == [job_id]


def test_job_is_found_in_its_project_only(database: Database, project_id: str) -> None:
    job_id = new_job(database, project_id)
    with database() as session:
        assert jobs.get(session, project_id, job_id).id == job_id
        for project, job in (("proj_other", job_id), (project_id, "ftjob-none")):
            with pytest.raises(JobNotFound, match="Could not find fine tune"):
                jobs.get(session, project, job)


def test_one_of_many_claims_at_once_succeeds(database: Database, project_id: str) -> None:
    job_ids = [new_job(database, project_id) for _ in range(5)]
    won: list[tuple[str, int]] = []
    barrier = threading.Barrier(8)

    def race(owner: str) -> None:
        barrier.wait()
        for job_id in job_ids:
            with database.begin() as session:
                claimed = leases.claim(session, JobRow, job_id, owner)
            if claimed is not None:
                won.append((job_id, claimed.lease_token))

    threads = [threading.Thread(target=race, args=(f"worker-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted((job_id, 1) for job_id in job_ids)


def test_expired_lease_is_claimed_as_a_crash_and_its_writes_are_refused(
    database: Database, project_id: str
) -> None:
    job_id = new_job(database, project_id)
    zombie = claim(database, job_id)
    with database.begin() as session:
        assert leases.claim(session, JobRow, job_id, "other") is None
    expire(database)
    second = claim(database, job_id, "other")
    assert second.lease_token == zombie.lease_token + 1
    assert (second.row.crashes, second.row.attempt) == (1, 2)
    writes: list[Callable[[Session], object]] = [
        lambda s: leases.renew(s, zombie, status="running"),
        lambda s: jobs.add_resume_point(s, zombie, {"key": "k"}),
        lambda s: leases.release(s, zombie),
        lambda s: jobs.succeed(s, zombie),
        lambda s: jobs.fail(s, zombie, code="c", message="m"),
    ]
    for write in writes:
        with pytest.raises(LostLease), database.begin() as session:
            write(session)
    job = row(database, job_id)
    assert (job.status, job.lease_owner, job.resume_points) == ("validating_files", "other", [])
    assert len(messages(database, job_id)) == 1


def test_lease_that_ran_out_but_was_not_taken_is_still_ones_own(
    database: Database, project_id: str
) -> None:
    claimed = claim(database, new_job(database, project_id))
    expire(database)
    with database.begin() as session:
        renewed = leases.renew(session, claimed).row
    assert renewed.lease_expires_at is not None
    assert renewed.lease_expires_at > renewed.created_at


def test_released_job_waits_and_does_not_count(database: Database, project_id: str) -> None:
    job_id = new_job(database, project_id)
    claimed = claim(database, job_id)
    with database.begin() as session:
        leases.release(session, claimed, after_s=60)
    job = row(database, job_id)
    assert (job.attempt, job.crashes, job.lease_owner) == (0, 0, None)
    with database.begin() as session:
        assert leases.runnable(session, JobRow, 99) == []
        assert leases.claim(session, JobRow, job_id, "me") is None


def test_released_crash_counts(database: Database, project_id: str) -> None:
    job_id = new_job(database, project_id)
    with database.begin() as session:
        leases.release(session, claim(database, job_id), is_crash=True)
    again = claim(database, job_id)
    assert (again.row.attempt, again.row.crashes) == (2, 1)


def test_resume_points_are_kept_newest_first_and_forgive_crashes(
    database: Database, project_id: str
) -> None:
    job_id = new_job(database, project_id, crashes=2)
    claimed = claim(database, job_id)
    fell_off = []
    for step in (1, 2, 3):
        with database.begin() as session:
            point = {"key": f"step-{step}", "step": step}
            fell_off += jobs.add_resume_point(session, claimed, point)
    job = row(database, job_id)
    assert [point["step"] for point in job.resume_points] == [3, 2]
    assert [point["step"] for point in fell_off] == [1]
    assert job.crashes == 0
    with database.begin() as session:
        jobs.add_resume_point(session, claimed, {"key": "step-3", "step": 3})
    assert [point["step"] for point in row(database, job_id).resume_points] == [3, 2]


def test_leases_of_dead_workers_can_be_ended_early(database: Database, project_id: str) -> None:
    dead, alive = new_job(database, project_id), new_job(database, project_id)
    claim(database, dead, "dead")
    claim(database, alive, "alive")
    with database.begin() as session:
        leases.expire(session, JobRow, ["dead"])
        assert leases.runnable(session, JobRow, 99) == [dead]
    assert claim(database, dead).row.crashes == 1


@pytest.mark.parametrize("status", ["validating_files", "queued", "running"])
def test_active_job_is_cancelled_at_once(database: Database, project_id: str, status: str) -> None:
    job_id = new_job(database, project_id, status=status)
    claimed = claim(database, job_id)
    with database.begin() as session:
        leases.renew(session, claimed, estimated_finish=claimed.row.created_at)
        cancelled = jobs.cancel(session, project_id, job_id)
    assert (cancelled.status, cancelled.lease_owner) == ("cancelled", None)
    assert cancelled.finished_at is not None
    assert cancelled.finished_at >= cancelled.created_at
    assert cancelled.estimated_finish is None
    assert messages(database, job_id)[-1] == "The job was cancelled"
    with pytest.raises(LostLease), database.begin() as session:
        leases.renew(session, claimed)
    with database() as session:
        assert leases.runnable(session, JobRow, 99) == []


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("succeeded", "has already succeeded and cannot be cancelled"),
        ("failed", "has already failed and cannot be cancelled"),
        ("cancelled", "has already been cancelled and cannot be cancelled"),
    ],
)
def test_ended_job_cannot_be_cancelled(
    database: Database, project_id: str, status: str, text: str
) -> None:
    job_id = new_job(database, project_id, status=status)
    with pytest.raises(InvalidRequest, match=text) as caught, database.begin() as session:
        jobs.cancel(session, project_id, job_id)
    assert caught.value.param == "fine_tune_id"
    with pytest.raises(JobNotFound), database.begin() as session:
        jobs.cancel(session, "proj_other", job_id)


@pytest.mark.parametrize("_round", range(5))
def test_job_ends_once_when_success_and_cancel_race(
    database: Database, project_id: str, _round: int
) -> None:
    job_id = new_job(database, project_id)
    claimed = claim(database, job_id)
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def race(end: Callable[[Session], JobRow]) -> None:
        barrier.wait()
        try:
            with database.begin() as session:
                outcome = end(session).status
        except (LostLease, InvalidRequest):
            outcome = "refused"
        outcomes.append(outcome)

    ends: list[Callable[[Session], JobRow]] = [
        lambda session: jobs.succeed(session, claimed, fine_tuned_model="ft:x"),
        lambda session: jobs.cancel(session, project_id, job_id),
    ]
    threads = [threading.Thread(target=race, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = set(outcomes) - {"refused"}
    assert len(outcomes) == 2
    assert "refused" in outcomes
    job = row(database, job_id)
    assert job.status == won
    assert (job.fine_tuned_model == "ft:x") == (won == "succeeded")


def test_success_and_failure_write_what_they_should(database: Database, project_id: str) -> None:
    good, bad = new_job(database, project_id), new_job(database, project_id)
    with database.begin() as session:
        jobs.succeed(session, claim(database, good), trained_tokens=5, result_files=["file-x"])
    job = row(database, good)
    assert (job.status, job.trained_tokens, job.result_files) == ("succeeded", 5, ["file-x"])
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    with database.begin() as session:
        jobs.fail(session, claim(database, bad), code="c", message="It broke", param="model")
    job = row(database, bad)
    assert job.error == {"code": "c", "message": "It broke", "param": "model"}
    assert messages(database, bad)[-1] == "It broke"
    for ended in (good, bad):
        with database.begin() as session:
            assert leases.claim(session, JobRow, ended, "me") is None


def test_active_picks_the_jobs_that_have_not_ended(database: Database, project_id: str) -> None:
    ids = [new_job(database, project_id, status=s) for s in ("running", "succeeded", "queued")]
    with database() as session:
        assert jobs.active(session, [*ids, "ftjob-none"]) == {ids[0], ids[2]}


def test_pages_run_through_all_jobs_newest_first(database: Database, project_id: str) -> None:
    ids = [new_job(database, project_id) for _ in range(5)]
    new_job(database, project_id_of_another(database))
    seen: list[str] = []
    after: str | None = None
    with database() as session:
        while True:
            page = jobs.page(session, project_id, after=after, limit=2)
            seen += [job.id for job in page.rows]
            if not page.has_more:
                break
            after = seen[-1]
        assert seen == ids[::-1]
        assert jobs.page(session, project_id, after="ftjob-none", limit=2).rows == []
        assert jobs.page(session, project_id, after=None, limit=0).rows == []


def project_id_of_another(database: Database) -> str:
    with database.begin() as session:
        return projects.create(session, "Another").id


def test_pages_select_by_metadata(database: Database, project_id: str) -> None:
    plain = new_job(database, project_id)
    red = new_job(database, project_id, metadata_={"colour": "red", "size": "s"})
    blue = new_job(database, project_id, metadata_={"colour": "blue"})

    def ids(metadata: Any) -> list[str]:
        with database() as session:
            page = jobs.page(session, project_id, after=None, limit=10, metadata=metadata)
        return [job.id for job in page.rows]

    assert ids({"colour": "red"}) == [red]
    assert ids({"colour": "red", "size": "l"}) == []
    assert ids("null") == [plain]
    assert ids(None) == [blue, red, plain]
