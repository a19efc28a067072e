"""A pause in the middle, and the job comes out as if there had been none."""

from __future__ import annotations

import pytest

from storage import leases, queue
from storage.jobs import jobs, pauses
from storage.jobs.jobs import JobRow
from tests.factories import colour_rows
from tests.worker.scene import FAKE, STEPS, Scene, run_on_thread, script, wait_for
from worker.cleanup import Cleanup
from worker.job import finish
from worker.job.run import run
from worker.lease import Lease

LONG_EPOCHS = colour_rows(100)
"""50 steps each, so that a pause is in the middle of one."""


def pause(scene: Scene, job_id: str) -> None:
    scene.change(lambda session: pauses.pause(session, scene.project_id, job_id))


def resume(scene: Scene, job_id: str) -> None:
    scene.change(lambda session: pauses.resume(session, scene.project_id, job_id))


def run_until_paused(scene: Scene, job_id: str, step: int = 2) -> JobRow:
    """Ask for a pause when `step` is told of; gives the job's row in the pause."""
    thread = run_on_thread(scene.workers[-1])
    wait_for(lambda: step in scene.steps(job_id), what=f"step {step}")
    pause(scene, job_id)
    thread.join(timeout=30)
    assert not thread.is_alive()
    return scene.row(job_id)


def test_job_paused_twice_ends_as_one_that_ran_through(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(hold_at=[2, 9]))
    job_id = scene.job(validation=colour_rows(10))
    worker = scene.worker()
    trainer = worker.trainer().pid
    steps = []
    for after in (2, 9):
        job = run_until_paused(scene, job_id, after)
        assert (job.status, job.lease_owner, job.attempt, job.crashes) == ("paused", None, 0, 0)
        steps.append(scene.steps(job_id)[-1])
        # What it goes on from stays, however long the pause is.
        Cleanup(scene.sessions, scene.blobs).once()
        assert job.resume_points[0]["step"] == steps[-1] < 15
        assert job.resume_points[0]["key"] in scene.blob_keys("jobs/")
        # The trainer is free for other jobs.
        assert worker.trainer().pid == trainer
        run(worker)
        assert scene.steps(job_id)[-1] == steps[-1]
        resume(scene, job_id)
    run(worker)
    job = scene.row(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert scene.steps(job_id) == STEPS
    assert scene.metrics(job_id) == finished.metrics(finished.job_id)
    assert scene.weights(job_id) == finished.weights(finished.job_id)
    assert job.trained_tokens == finished.row(finished.job_id).trained_tokens
    told = scene.messages(job_id)
    assert told.count("Job paused") == told.count("Job resumed") == 2
    assert told.count("Fine-tuning job started") == 1
    assert scene.blob_keys("jobs/") == []


def test_state_before_the_first_step_is_no_model_but_is_gone_on_from(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(ahead=600, step_s=0.1))
    job_id = scene.job()
    thread = run_on_thread(scene.worker())
    wait_for(lambda: scene.row(job_id).resume_points, what="a state")
    pause(scene, job_id)
    thread.join(timeout=30)
    job = scene.row(job_id)
    assert (job.status, job.crashes) == ("paused", 0)
    assert job.resume_points[0]["step"] == 0
    assert scene.checkpoints(job_id) == []
    assert scene.artifact_keys() == []


def test_state_of_a_pause_is_a_model(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.1))
    job_id = scene.job(LONG_EPOCHS)
    scene.worker()
    run_until_paused(scene, job_id)
    (checkpoint,) = scene.checkpoints(job_id)
    assert checkpoint.step == scene.steps(job_id)[-1] < 50
    assert checkpoint.model_name.endswith(f":ckpt-step-{checkpoint.step}")
    assert checkpoint.metrics == {
        "step": checkpoint.step,
        "train_loss": 2 / checkpoint.step,
        "train_mean_token_accuracy": 1 - 2 / checkpoint.step / 4,
        "type": "supervised",
    }
    assert checkpoint.model_name in scene.messages(job_id)[-2]
    before = scene.artifact_files(checkpoint.model_name)
    # Resumed and paused again before it took a step, it has nothing new to show.
    resume(scene, job_id)
    pause(scene, job_id)
    assert scene.row(job_id).status == "paused"
    assert [c.id for c in scene.checkpoints(job_id)] == [checkpoint.id]
    assert scene.artifact_files(checkpoint.model_name) == before


def test_pause_right_behind_a_checkpoint_publishes_that_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With one after each step the stop finds nothing new to save.
    monkeypatch.setenv(FAKE, script(step_s=0.1, checkpoint_every=1))
    job_id = scene.job(LONG_EPOCHS)
    scene.worker()
    job = run_until_paused(scene, job_id)
    (checkpoint,) = scene.checkpoints(job_id)
    assert checkpoint.step == job.resume_points[0]["step"]
    assert scene.blob_keys("artifacts/") == scene.artifact_keys()


def test_pause_asked_for_before_the_worker_began_needs_no_trainer(scene: Scene) -> None:
    job_id = scene.job()
    with scene.sessions.begin() as session:
        claim = leases.claim(session, JobRow, job_id, "dead")
    assert claim is not None
    pause(scene, job_id)
    assert scene.row(job_id).status == "validating_files"
    scene.change(lambda session: leases.expire(session, JobRow, ["dead"]))
    run(scene.worker())
    job = scene.row(job_id)
    assert (job.status, job.train_config) == ("paused", None)
    resume(scene, job_id)
    run(scene.workers[-1])
    assert scene.row(job_id).status == "succeeded"


def test_pause_called_off_too_late_to_keep_the_trainer_rings_for_another_attempt(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.1))
    job_id = scene.job()
    worker = scene.worker()
    release = finish.pause

    def called_off(lease: Lease) -> bool:
        resume(scene, job_id)
        return release(lease)

    monkeypatch.setattr(finish, "pause", called_off)
    job = run_until_paused(scene, job_id)
    assert (job.status, job.lease_owner, job.attempt) == ("running", None, 0)
    assert queue.depth() == 1
    run(worker)
    assert scene.row(job_id).status == "succeeded"
    assert scene.steps(job_id) == STEPS


def test_paused_job_is_cancelled_and_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.1))
    job_id = scene.job(LONG_EPOCHS)
    scene.worker()
    run_until_paused(scene, job_id)
    scene.change(lambda session: jobs.cancel(session, scene.project_id, job_id))
    assert scene.row(job_id).status == "cancelled"
    Cleanup(scene.sessions, scene.blobs).once()
    assert scene.blob_keys("jobs/") == []
    assert len(scene.checkpoints(job_id)) == 1
