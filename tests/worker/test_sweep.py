from __future__ import annotations

import threading

import pytest
from sqlalchemy import func, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from storage import leases, queue
from storage.database import sessions, sync_engine
from storage.files import files
from storage.files.files import FileRow
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.rounds import Rounds
from tests.worker.scene import Scene, wait_for
from worker import cleanup
from worker.cleanup import Cleanup
from worker.sweep import LOCK, of_jobs


def test_job_whose_message_was_lost_is_rung_again(scene: Scene) -> None:
    job_id = scene.job()
    assert queue.depth() == 0
    swept = of_jobs(scene.worker())
    swept.once()
    assert queue.depth() == 1
    # It waits in the queue now: no need to say it twice.
    swept.once()
    assert queue.depth() == 1
    assert scene.runnable() == [job_id]


def test_jobs_are_rung_for_while_others_wait_in_the_queue_and_no_more_often_than_there_are_jobs(
    scene: Scene,
) -> None:
    jobs_of_old = [scene.job() for _ in range(3)]
    queue.ring(jobs_of_old[0])
    swept = of_jobs(scene.worker())
    for _ in range(2):
        swept.once()
        assert queue.depth() == 3


def test_queue_does_not_grow_beyond_the_workers_that_could_hear_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_RINGS", 2)
    ids = [scene.job() for _ in range(4)]
    assert all(queue.ring(job_id) for job_id in ids)
    assert queue.depth() == 2
    of_jobs(scene.worker()).once()
    assert queue.depth() == 2


def test_job_that_is_worked_on_or_over_or_pausing_is_not_rung(scene: Scene) -> None:
    leased, cancelled, pausing = scene.job(), scene.job(), scene.job()
    scene.change(lambda session: leases.claim(session, JobRow, leased, "somebody"))
    scene.change(lambda session: jobs.cancel(session, scene.project_id, cancelled))

    def pause(session: Session) -> None:
        claim = leases.claim(session, JobRow, pausing, "somebody")
        assert claim is not None
        leases.release(session, claim, after_s=60)

    scene.change(pause)
    of_jobs(scene.worker()).once()
    assert queue.depth() == 0


def test_expired_file_goes_with_its_blob(scene: Scene) -> None:
    kept, expired = scene.file(b"{}\n"), scene.file(b"{}\n")
    scene.change(
        lambda session: (
            session.query(FileRow).filter_by(id=expired).update({"expires_at": func.now()})
        )
    )
    Cleanup(scene.sessions, scene.blobs).once()
    with scene.sessions() as session:
        assert files.find(session, scene.project_id, expired) is None
    assert scene.blob_keys("files/") == [files.blob_key(scene.project_id, kept)]


def test_one_worker_sweeps_at_a_time(scene: Scene) -> None:
    scene.job()
    swept = of_jobs(scene.worker())
    with scene.sessions.begin() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        swept.once()
        assert queue.depth() == 0
    swept.once()
    assert queue.depth() == 1


def test_sweep_begins_at_once_and_outlives_a_database_that_is_away(scene: Scene) -> None:
    scene.job()
    worker = scene.worker()
    nowhere = sync_engine("postgresql://127.0.0.1:1/nothing")
    reachable, worker.sessions = worker.sessions, sessions(nowhere)
    swept = of_jobs(worker)
    with pytest.raises(OperationalError):
        swept.once()
    swept.interval_s = 0.05
    swept.start()
    worker.sessions = reachable
    wait_for(lambda: queue.depth() == 1, what="the ring")
    swept.stop()
    nowhere.dispose()
    for thread in threading.enumerate():
        if thread.name == "sweep":
            thread.join(timeout=5)
            assert not thread.is_alive()


def put(scene: Scene, key: str) -> None:
    with scene.blobs.writer(key) as writer:
        writer.write(b"content")
        writer.commit()


def test_states_of_ended_jobs_are_removed_and_those_of_others_kept(scene: Scene) -> None:
    active, cancelled = scene.job(), scene.job()
    scene.change(lambda session: jobs.cancel(session, scene.project_id, cancelled))
    for job_id in (active, cancelled, "ftjob-unknown"):
        put(scene, f"jobs/{job_id}/attempts/1/step-5.tar")
    Cleanup(scene.sessions, scene.blobs).once()
    assert scene.blob_keys("jobs/") == [f"jobs/{active}/attempts/1/step-5.tar"]


def test_blob_without_a_row_is_removed_after_an_hour_without_one(scene: Scene) -> None:
    now = 0.0
    collector = Cleanup(scene.sessions, scene.blobs, clock=lambda: now)
    kept = scene.file(b"{}\n")
    for key in ("adapters/adapter-orphan.tar", "artifacts/artifact-orphan.tar"):
        put(scene, key)
    put(scene, f"files/{scene.project_id}/file-orphan")
    collector.once()
    put(scene, "artifacts/artifact-young.tar")
    now += cleanup.ORPHANS_INTERVAL_S - 1
    collector.once()
    assert len(scene.blob_keys("")) == 5
    now += 1
    collector.once()
    assert scene.blob_keys("") == [
        "artifacts/artifact-young.tar",
        files.blob_key(scene.project_id, kept),
    ]


def test_blob_store_that_hangs_keeps_no_job_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def delete(_key: str) -> None:
        hangs.set()
        goes_on.wait(20)

    worker = scene.worker()
    monkeypatch.setattr(worker.blobs, "delete", delete)
    put(scene, "jobs/ftjob-unknown/attempts/1/step-5.tar")
    running: list[Rounds] = [Cleanup(worker.sessions, worker.blobs), of_jobs(worker)]
    for rounds in running:
        rounds.interval_s = 0.02
        rounds.start()
    assert hangs.wait(20)
    scene.job()
    wait_for(lambda: queue.depth() == 1, what="the ring")
    assert not goes_on.is_set()
    goes_on.set()
    for rounds in running:
        rounds.stop()
        rounds._thread.join(timeout=20)
