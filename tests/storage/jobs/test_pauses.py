from __future__ import annotations

import pytest

from foundation.errors import InvalidRequest, JobNotFound
from storage import leases
from storage.jobs import jobs, pauses
from storage.jobs.jobs import JobRow
from storage.leases import LostLease

from .test_jobs import Database, claim, expire, messages, new_job, row


def pause(database: Database, project_id: str, job_id: str) -> JobRow:
    with database.begin() as session:
        return pauses.pause(session, project_id, job_id)


def resume(database: Database, project_id: str, job_id: str) -> JobRow:
    with database.begin() as session:
        return pauses.resume(session, project_id, job_id)


@pytest.mark.parametrize("status", ["validating_files", "queued", "running"])
def test_job_that_nobody_works_on_pauses_at_once_and_resumes(
    database: Database, project_id: str, status: str
) -> None:
    job_id = new_job(database, project_id, status=status)
    # What is told is the state before: OpenAI's clients know no other.
    assert pause(database, project_id, job_id).status == status
    job = row(database, job_id)
    assert (job.status, job.pause_requested_at) == ("paused", None)
    with database.begin() as session:
        assert leases.runnable(session, JobRow, 99) == []
        assert leases.claim(session, JobRow, job_id, "me") is None
        assert jobs.active(session, [job_id]) == {job_id}
    assert resume(database, project_id, job_id).status == "queued"
    with database() as session:
        assert leases.runnable(session, JobRow, 99) == [job_id]
    assert messages(database, job_id)[1:] == ["Pause requested", "Job paused", "Job resumed"]


def test_job_that_is_worked_on_pauses_when_its_worker_lets_go(
    database: Database, project_id: str
) -> None:
    job_id = new_job(database, project_id)
    claimed = claim(database, job_id)
    with database.begin() as session:
        leases.renew(session, claimed, status="running", estimated_finish=claimed.row.created_at)
    for _ in range(2):
        assert pause(database, project_id, job_id).status == "running"
    assert row(database, job_id).pause_requested_at is not None
    with database.begin() as session:
        assert pauses.release(session, claimed)
    job = row(database, job_id)
    assert (job.status, job.lease_owner, job.attempt, job.crashes) == ("paused", None, 0, 0)
    assert (job.pause_requested_at, job.estimated_finish) == (None, None)
    with pytest.raises(LostLease), database.begin() as session:
        leases.renew(session, claimed)
    assert messages(database, job_id)[1:] == ["Pause requested", "Job paused"]


def test_pause_can_be_called_off_until_the_worker_lets_go(
    database: Database, project_id: str
) -> None:
    job_id = new_job(database, project_id, status="running")
    claimed = claim(database, job_id)
    pause(database, project_id, job_id)
    assert resume(database, project_id, job_id).status == "running"
    with database.begin() as session:
        assert not pauses.release(session, claimed)
        leases.renew(session, claimed)
    assert messages(database, job_id)[1:] == ["Pause requested", "Pause called off"]


def test_pause_of_a_dead_worker_s_job_fences_it_out(database: Database, project_id: str) -> None:
    job_id = new_job(database, project_id)
    zombie = claim(database, job_id)
    expire(database)
    pause(database, project_id, job_id)
    assert row(database, job_id).status == "paused"
    resume(database, project_id, job_id)
    with pytest.raises(LostLease), database.begin() as session:
        leases.renew(session, zombie)


def test_paused_job_can_be_cancelled_and_a_pausing_one_can_end(
    database: Database, project_id: str
) -> None:
    job_id = new_job(database, project_id)
    pause(database, project_id, job_id)
    with database.begin() as session:
        assert jobs.cancel(session, project_id, job_id).status == "cancelled"
    ending = new_job(database, project_id)
    claimed = claim(database, ending)
    pause(database, project_id, ending)
    with database.begin() as session:
        assert jobs.succeed(session, claimed).pause_requested_at is None


@pytest.mark.parametrize(
    ("status", "pausing", "resuming"),
    [
        ("paused", "has already been paused and cannot be paused", None),
        ("running", None, "is not paused"),
        ("succeeded", "has already succeeded and cannot be paused", "cannot be resumed"),
        ("cancelled", "has already been cancelled and cannot be paused", "cannot be resumed"),
    ],
)
def test_pause_and_resume_are_refused_where_they_make_no_sense(
    database: Database, project_id: str, status: str, pausing: str | None, resuming: str | None
) -> None:
    job_id = new_job(database, project_id, status=status)
    for change, text in ((pause, pausing), (resume, resuming)):
        with pytest.raises(JobNotFound):
            change(database, "proj_other", job_id)
        if text is not None:
            with pytest.raises(InvalidRequest, match=text) as caught:
                change(database, project_id, job_id)
            assert caught.value.param == "fine_tune_id"
    assert row(database, job_id).status == status
