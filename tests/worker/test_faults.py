"""Everything that can break does, and the job comes out as if nothing had."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.crash_points import ENV, NAMES
from storage import leases, queue
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.sweep import free_leases_of_dead
from tests.factories import colour_rows
from tests.worker import one_run
from tests.worker.scene import (
    FAKE,
    Scene,
    assert_as_if_nothing_broke,
    run_on_thread,
    script,
    wait_for,
)
from worker import trainer
from worker.cleanup import Cleanup
from worker.job import supervise
from worker.job.run import run


def test_worker_killed_at_every_crash_point_in_turn_loses_and_doubles_nothing(
    scene: Scene, finished: Scene
) -> None:
    job_id = scene.job(validation=colour_rows(10))
    for name in NAMES:
        process = one_run.start(scene, **{ENV: name})
        process.join(timeout=30)
        assert process.exitcode == 137, name
        expected = "succeeded" if name == "after_succeed" else None
        assert (scene.row(job_id).status == "succeeded") == (expected is not None), name
        # More deaths in a row than a job may have; here they are what is tested.
        scene.set(crashes=0)
    worker = scene.worker()
    free_leases_of_dead(worker, JobRow)
    run(worker)
    Cleanup(scene.sessions, scene.blobs).once()
    assert_as_if_nothing_broke(scene, job_id, finished)


@pytest.mark.parametrize("step", [1, 7, 15])
def test_trainer_killed_after_a_step_resumes_at_once(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[step], die_once=str(tmp_path)))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    run(worker)
    # Behind the last step there is nothing left that a trainer is needed for.
    if step < 15:
        job = scene.row(job_id)
        assert (job.status, job.attempt, job.crashes) == ("running", 1, 1)
        # It asked for the next attempt itself; nobody waits for a sweep.
        assert queue.depth() == 1
        run(worker)
        assert f"Attempt 1 was interrupted after step {step}" in scene.messages(job_id)[
            -4 - 1
        ] or any(
            f"Attempt 1 was interrupted after step {step}: The trainer was killed" in m
            for m in scene.messages(job_id)
        )
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_what_is_computed_ahead_of_the_first_step_outlives_a_kill_and_an_alert_is_told_once(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = script(ahead=4, die_ahead=3, die_at=[7], die_once=str(tmp_path), alert_at=6)
    monkeypatch.setenv(FAKE, faults)
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    run(worker)
    points = scene.row(job_id).resume_points
    assert [point["step"] for point in points] == [0] * len(points)
    # One blob for each: none is written over while an older row points at it.
    assert len(points) == len({point["key"] for point in points}) > 1
    assert points[0]["key"].endswith("step-0-3.tar")
    assert scene.blob_keys("jobs/") == sorted(point["key"] for point in points)
    run(worker)
    run(worker)
    assert_as_if_nothing_broke(scene, job_id, finished)
    alerts = [event for event in scene.events(job_id) if event.key.startswith("alert:")]
    assert [(event.key, event.level, event.data) for event in alerts] == [
        ("alert:odd", "warn", {"step": 6})
    ]


def test_trainer_that_dies_at_the_same_step_again_fails_the_job_early(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[7]))
    job_id = scene.job()
    worker = scene.worker()
    # It gets to the checkpoint of step 5, so the count begins anew there: crash, resume, crash.
    run(worker)
    run(worker)
    job = scene.row(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert job.error["message"] == (
        "The job was given up after 2 attempts in a row without progress. "
        "The trainer was killed; the machine may have run out of memory"
    )
    assert scene.blob_keys("jobs/") == []


def test_crashes_without_progress_fail_the_job_after_the_third_with_a_pause(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = scene.job()
    worker = scene.worker()
    for attempt, step in enumerate((1, 2, 3), start=1):
        monkeypatch.setenv(FAKE, script(die_at=[step]))
        run(worker)
        job = scene.row(job_id)
        if attempt == 2:
            # The second time it waits, so that others get their turn.
            assert scene.runnable() == []
            scene.end_pauses()
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert "3 attempts in a row" in job.error["message"]


def test_worker_lost_too_often_fails_the_job_when_it_is_next_claimed(scene: Scene) -> None:
    job_id = scene.job()
    for _ in range(jobs.MAX_CRASHES):
        with scene.sessions.begin() as session:
            assert leases.claim(session, JobRow, job_id, "doomed") is not None
        scene.change(lambda session: leases.expire(session, JobRow, ["doomed"]))
    run(scene.worker())
    error = scene.row(job_id).error
    assert error is not None
    assert error["code"] == "worker_lost"


def test_failed_trainer_is_replaced_before_the_next_attempt(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {
        "code": "server_error",
        "message": "CUDA error",
        "param": None,
        "is_user_error": False,
    }
    monkeypatch.setenv(FAKE, script(failed=failed, fail_at=7))
    job_id = scene.job()
    worker = scene.worker()
    pid = worker.trainer().pid
    run(worker)
    assert scene.row(job_id).crashes == 1
    monkeypatch.delenv(FAKE)
    run(worker)
    assert worker.trainer().pid != pid
    assert scene.row(job_id).status == "succeeded"


@pytest.mark.parametrize("accident", ["hang_at", "stuck_at"])
def test_trainer_that_hangs_is_killed_and_the_job_goes_on(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    monkeypatch.setenv(FAKE, script(**{accident: 7}))
    monkeypatch.setattr(trainer, "FROZEN_S", 1)
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    run(worker)
    assert scene.row(job_id).crashes == 1
    monkeypatch.delenv(FAKE)
    run(worker)
    assert any("The trainer hung" in message for message in scene.messages(job_id))
    assert_as_if_nothing_broke(scene, job_id, finished)


def damage(scene: Scene, key: str) -> None:
    path = Path(scene.settings.blob_url.removeprefix("file://")) / key
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_damaged_state_is_passed_over_and_told(
    scene: Scene,
    finished: Scene,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    num_damaged: int,
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[12], die_once=str(tmp_path)))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    run(worker)
    points = scene.row(job_id).resume_points
    assert [point["step"] for point in points] == [10, 5]
    for point in points[:num_damaged]:
        damage(scene, point["key"])
    run(worker)
    told = "10" if num_damaged == 1 else "10, 5"
    goes_on = 5 if num_damaged == 1 else 0
    message = f"The saved state of step {told} is damaged; training goes on from step {goes_on}"
    assert scene.messages(job_id).count(message) == 1
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_state_that_the_trainer_refuses_is_passed_over_and_told(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[12], die_once=str(tmp_path), refuse=[10, 5]))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    for _ in range(4):
        run(worker)
    job = scene.row(job_id)
    assert job.attempt == 2
    told = "The job cannot resume: it is no good. Trying an earlier state"
    assert scene.messages(job_id).count(told) == 2
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_cancelled_job_stops_at_once_and_leaves_no_state(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.02, checkpoint_every=2))
    job_id = scene.job(hyperparameters={"n_epochs": 50, "batch_size": 1})
    worker = scene.worker()
    thread = run_on_thread(worker)
    wait_for(lambda: scene.steps(job_id)[-1:] > [4], what="a step")
    pid = worker.trainer().pid
    scene.change(lambda session: jobs.cancel(session, scene.project_id, job_id))
    seen = scene.steps(job_id)
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert scene.steps(job_id) == seen
    job = scene.row(job_id)
    assert (job.status, job.error) == ("cancelled", None)
    assert job.finished_at is not None
    assert scene.messages(job_id)[-1] == "The job was cancelled"
    # The trainer is ready for the next job.
    monkeypatch.delenv(FAKE)
    scene.job()
    run(worker)
    assert worker.trainer().pid == pid
    assert scene.blob_keys(f"jobs/{job_id}/")
    Cleanup(scene.sessions, scene.blobs).once()
    assert scene.blob_keys("jobs/") == []


def test_cancel_reaches_a_trainer_that_is_silent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=3))
    monkeypatch.setattr(supervise, "ABANDON_S", 0.5)
    job_id = scene.job()
    worker = scene.worker()
    thread = run_on_thread(worker)
    wait_for(lambda: scene.row(job_id).status == "running", what="the start")
    pid = worker.trainer().pid
    scene.change(lambda session: jobs.cancel(session, scene.project_id, job_id))
    thread.join(timeout=2.5)
    assert not thread.is_alive()
    # In the middle of a long step it does not hear; then it is ended.
    assert worker.trainer().pid != pid


def test_cancel_before_the_claim_leaves_nothing_to_do(scene: Scene) -> None:
    job_id = scene.job()
    scene.change(lambda session: jobs.cancel(session, scene.project_id, job_id))
    run(scene.worker())
    assert scene.messages(job_id) == [f"Created fine-tuning job: {job_id}", "The job was cancelled"]


def test_worker_told_to_end_makes_a_checkpoint_and_lets_go(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.2))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    thread = run_on_thread(worker)
    wait_for(lambda: len(scene.steps(job_id)) >= 2, what="a step")
    worker.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
    job = scene.row(job_id)
    assert (job.status, job.attempt, job.crashes) == ("running", 0, 0)
    assert job.lease_owner is None
    # No step is done twice: it stopped where it had come to.
    assert job.resume_points[0]["step"] == scene.steps(job_id)[-1]
    assert queue.depth() == 1
    monkeypatch.delenv(FAKE)
    run(scene.worker())
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_worker_told_to_end_does_not_wait_for_a_trainer_that_does_not_listen(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(hang_at=7))
    monkeypatch.setattr(supervise, "STOP_S", 0.3)
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    thread = run_on_thread(worker)
    wait_for(lambda: len(scene.steps(job_id)) >= 7, what="a step")
    worker.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert scene.row(job_id).resume_points[0]["step"] == 5
    monkeypatch.delenv(FAKE)
    run(scene.worker())
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_blob_store_that_is_away_makes_the_job_wait(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = scene.job(validation=colour_rows(10))
    root = Path(scene.settings.blob_url.removeprefix("file://"))
    worker = scene.worker()
    away = root.with_name("away")
    jobs_dir = root / "jobs"
    jobs_dir.parent.mkdir(exist_ok=True)
    # A file where a directory is wanted: every write of a state fails.
    jobs_dir.write_text("")
    run(worker)
    job = scene.row(job_id)
    assert (job.status, job.attempt, job.crashes, job.lease_owner) == ("running", 0, 0, None)
    jobs_dir.rename(away)
    scene.end_pauses()
    run(worker)
    assert_as_if_nothing_broke(scene, job_id, finished)
