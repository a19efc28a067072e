"""Who holds a job: one worker at a time, and nobody for longer than it lives."""

from __future__ import annotations

import os
import signal

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from storage import leases, queue
from storage.files.files import FileRow
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.organization import projects
from storage.sweep import free_leases_of_dead
from tests.factories import colour_rows
from tests.worker import one_run
from tests.worker.scene import (
    FAKE,
    STEPS,
    Scene,
    assert_as_if_nothing_broke,
    run_on_thread,
    script,
    wait_for,
)
from worker import tasks
from worker.job.run import run


def stopped_between_writes(scene: Scene, job_id: str, pid: int) -> bool:
    """Stop the process, unless that leaves it holding the job's row: then it goes on."""
    os.kill(pid, signal.SIGSTOP)
    lock = select(JobRow.id).where(JobRow.id == job_id).with_for_update(nowait=True)
    try:
        scene.change(lambda session: session.execute(lock))
    except OperationalError:
        os.kill(pid, signal.SIGCONT)
        return False
    return True


def test_two_workers_claim_a_job_once(scene: Scene) -> None:
    job_id = scene.job()
    threads = [run_on_thread(scene.worker()) for _ in range(2)]
    for thread in threads:
        thread.join(timeout=20)
    job = scene.row(job_id)
    assert (job.status, job.attempt, job.lease_token) == ("succeeded", 1, 2)
    assert scene.steps(job_id) == STEPS


def test_zombie_that_wakes_up_writes_nothing(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = scene.job(validation=colour_rows(10))
    # Its trainer has a few steps more to tell when it wakes up.
    zombie = one_run.start(scene, **{FAKE: script(step_s=0.05, hold_at=[12])})
    wait_for(lambda: len(scene.steps(job_id)) >= 2, what="a step")
    assert zombie.pid is not None
    pid = zombie.pid
    wait_for(
        lambda: stopped_between_writes(scene, job_id, pid), what="a worker that writes nothing"
    )
    # Its lease runs out.
    owner = scene.row(job_id).lease_owner or ""
    scene.change(lambda session: leases.expire(session, JobRow, [owner]))
    other = scene.worker()
    # It is not dead: nobody takes its folder.
    free_leases_of_dead(other, JobRow)
    assert (scene.settings.data_dir / "worker" / owner).exists()
    run(other)
    before = scene.row(job_id), [e.id for e in scene.events(job_id)], scene.blob_keys("")
    os.kill(zombie.pid, signal.SIGCONT)
    zombie.join(timeout=20)
    assert zombie.exitcode == 0
    after = scene.row(job_id), [e.id for e in scene.events(job_id)], scene.blob_keys("")
    assert before[0].lease_token == after[0].lease_token
    assert before[1:] == after[1:]
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_lease_of_a_killed_worker_is_free_at_once_for_one_beside_it(
    scene: Scene, finished: Scene
) -> None:
    job_id = scene.job(validation=colour_rows(10))
    first = one_run.start(scene, **{FAKE: script(step_s=0.05)})
    wait_for(lambda: len(scene.steps(job_id)) >= 6, what="a step")
    first.kill()
    first.join()
    worker = scene.worker()
    free_leases_of_dead(worker, JobRow)
    assert [p.name for p in (scene.settings.data_dir / "worker").iterdir()] == [worker.name]
    run(worker)
    assert scene.row(job_id).attempt == 2
    assert_as_if_nothing_broke(scene, job_id, finished)


def test_job_of_a_killed_worker_goes_on_before_younger_ones_that_wait_in_the_queue(
    scene: Scene, finished: Scene
) -> None:
    job_id = scene.job(validation=colour_rows(10))
    first = one_run.start(scene, **{FAKE: script(step_s=0.05)})
    wait_for(lambda: len(scene.steps(job_id)) >= 6, what="a step")
    younger = [scene.job() for _ in range(3)]
    for each in younger:
        queue.ring(each)
    first.kill()
    first.join()
    worker = scene.worker()
    free_leases_of_dead(worker, JobRow)
    run(worker)
    assert_as_if_nothing_broke(scene, job_id, finished)
    assert {scene.row(each).attempt for each in younger} == {0}


def test_worker_that_starts_frees_what_a_dead_one_had_before_it_hears_a_message(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = scene.job()
    dead = one_run.start(scene, **{FAKE: script(step_s=0.05)})
    wait_for(lambda: scene.steps(job_id), what="a step")
    dead.kill()
    dead.join()
    assert scene.runnable() == []
    monkeypatch.setattr(tasks, "Worker", lambda _settings, **_: scene.worker())
    monkeypatch.setattr(tasks, "_Process", type("Process", (), {}))
    for name in ("database_url", "broker_url", "blob_url"):
        monkeypatch.setenv(f"LUTHIER_{name.upper()}", getattr(scene.settings, name))
    tasks._open()
    assert scene.runnable() == [job_id]


def test_projects_take_turns_whatever_the_messages_name(scene: Scene) -> None:
    ours = [scene.job(hyperparameters={"n_epochs": 1, "batch_size": 10}) for _ in range(4)]
    with scene.sessions.begin() as session:
        other_id = projects.create(session, "Another").id
    theirs = scene.job()
    file_id = scene.row(theirs).training_file
    scene.change(
        lambda session: session.execute(
            update(JobRow).where(JobRow.id == theirs).values(project_id=other_id)
        )
    )
    scene.change(
        lambda session: session.execute(
            update(FileRow).where(FileRow.id == file_id).values(project_id=other_id)
        )
    )
    worker = scene.worker()
    for _ in range(2):
        run(worker)
    with scene.sessions() as session:
        ended = jobs.ended(session, [*ours, theirs])
    assert ended == {ours[0], theirs}
