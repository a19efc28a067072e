"""Several jobs in one trainer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func

from storage.jobs import jobs
from tests.factories import colour_rows
from tests.worker.scene import (
    FAKE,
    Scene,
    assert_as_if_nothing_broke,
    run_on_thread,
    script,
    wait_for,
)
from training.messages import Start
from worker.endings import JobFailed
from worker.job import run as run_module
from worker.job.run import run
from worker.lease import Lease
from worker.occupancy import Occupancy
from worker.worker import Worker


def nothing() -> None:
    pass


class Guest:
    """A job that has a place until it is told to leave."""

    def __init__(
        self, occupancy: Occupancy, name: str, base: str, *, is_alone: bool = False
    ) -> None:
        self.name = name
        self.is_inside = threading.Event()
        self.leave = threading.Event()
        self._arguments = (occupancy, base, is_alone)
        self.thread = threading.Thread(target=self._stay, daemon=True)
        self.thread.start()

    def _stay(self) -> None:
        occupancy, base, is_alone = self._arguments
        with occupancy.taken(self.name, base, is_alone=is_alone, check=nothing):
            self.is_inside.set()
            self.leave.wait(20)

    def go(self) -> None:
        self.leave.set()
        self.thread.join(20)


def arrive(occupancy: Occupancy, name: str, base: str, *, is_alone: bool = False) -> Guest:
    guest = Guest(occupancy, name, base, is_alone=is_alone)
    wait_for(lambda: guest.is_inside.is_set() or name in occupancy._waiting, what=name)
    return guest


def test_jobs_on_one_base_share_and_those_on_another_wait() -> None:
    occupancy = Occupancy()
    first, second = (arrive(occupancy, name, "a") for name in ("1", "2"))
    assert first.is_inside.wait(20)
    assert second.is_inside.wait(20)
    other = arrive(occupancy, "3", "b")
    first.go()
    assert not other.is_inside.is_set()
    second.go()
    assert other.is_inside.wait(20)
    other.go()


def test_a_job_claimed_anew_waits_until_its_former_attempt_has_left() -> None:
    occupancy = Occupancy()
    former = arrive(occupancy, "1", "a")
    assert former.is_inside.wait(20)
    again = Guest(occupancy, "1", "a")
    wait_for(lambda: occupancy._waiting or again.is_inside.is_set(), what="the second attempt")
    assert not again.is_inside.is_set()
    former.go()
    assert again.is_inside.wait(20)
    assert occupancy._inside == {"1": "a"}
    again.go()
    assert occupancy._inside == {}


def test_attempts_at_a_job_have_folders_of_their_own(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that lost the job may still be in its folder when the next begins in the same worker."""
    folders: list[Path] = []

    def prepare(worker: Worker, lease: Lease, folder: Path) -> Start:
        assert all(former.exists() for former in folders)
        folders.append(folder)
        if len(folders) == 1:
            scene.set(lease_expires_at=func.clock_timestamp() - timedelta(seconds=1))
            run(worker)
        raise JobFailed("invalid_training_file", "Enough", "training_file")

    monkeypatch.setattr(run_module, "prepare", prepare)
    scene.job()
    run(scene.worker())
    assert len(set(folders)) == 2


def test_a_job_under_suspicion_is_alone_once() -> None:
    occupancy = Occupancy()
    occupancy.suspect("1")
    suspect = arrive(occupancy, "1", "a")
    assert suspect.is_inside.wait(20)
    other = arrive(occupancy, "2", "a")
    assert not other.is_inside.is_set()
    suspect.go()
    assert other.is_inside.wait(20)
    again = arrive(occupancy, "1", "a")
    assert again.is_inside.wait(20)
    again.go()
    other.go()


def test_a_job_that_has_proved_itself_is_alone_no_longer() -> None:
    occupancy = Occupancy()
    lost = arrive(occupancy, "1", "a", is_alone=True)
    assert lost.is_inside.wait(20)
    other = arrive(occupancy, "2", "a")
    occupancy.open("2")
    assert not other.is_inside.wait(0.1)
    occupancy.open("1")
    assert other.is_inside.wait(20)
    for guest in (lost, other):
        guest.go()


def test_a_long_job_that_crashed_once_lets_others_in_after_its_first_checkpoint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds where it is: were it alone until its end, the other one would not begin."""
    monkeypatch.setenv(FAKE, script(checkpoint_every=2, hold_at=[3]))
    long = scene.job(hyperparameters={"n_epochs": 50, "batch_size": 1})
    scene.set(crashes=1)
    worker = scene.worker()
    threads = [run_on_thread(worker)]
    wait_for(lambda: 3 in scene.steps(long), what="the long one's third step")
    short = scene.job(hyperparameters={"n_epochs": 1, "batch_size": 10})
    threads.append(run_on_thread(worker))
    wait_for(lambda: scene.row(short).status == "succeeded", what="the short one's end")
    assert scene.row(long).status == "running"
    scene.change(lambda session: jobs.cancel(session, scene.project_id, long))
    for thread in threads:
        thread.join(20)


def test_who_waits_may_be_told_to_stop_waiting() -> None:
    occupancy = Occupancy()
    inside = arrive(occupancy, "1", "a", is_alone=True)
    assert inside.is_inside.wait(20)

    def stop() -> None:
        raise InterruptedError

    with (
        pytest.raises(InterruptedError),
        occupancy.taken("2", "a", is_alone=False, check=stop),
    ):
        raise AssertionError("there is no place")
    inside.go()
    with occupancy.taken("3", "b", is_alone=True, check=stop):
        """Nobody is left over from before."""


def two_jobs_in_one_trainer(scene: Scene) -> tuple[Worker, list[str]]:
    """Both attempts have come to their ends."""
    job_ids = [scene.job(validation=colour_rows(10)) for _ in range(2)]
    worker = scene.worker()
    threads = [run_on_thread(worker) for _ in job_ids]
    wait_for(lambda: worker.trainer().num_jobs == 2, what="both in it")
    for thread in threads:
        thread.join(20)
    return worker, job_ids


def test_two_jobs_are_in_one_trainer_at_a_time(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.05))
    _, job_ids = two_jobs_in_one_trainer(scene)
    for job_id in job_ids:
        assert_as_if_nothing_broke(scene, job_id, finished)


def test_a_trainer_that_dies_costs_none_of_its_jobs_an_attempt(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which of them is to blame shows when each is alone."""
    monkeypatch.setenv(FAKE, script(step_s=0.05, die_at=[7], die_once=str(tmp_path)))
    worker, job_ids = two_jobs_in_one_trainer(scene)
    assert [scene.row(job_id).crashes for job_id in job_ids] == [0, 0]
    monkeypatch.setenv(FAKE, script())
    assert _runs(lambda: run(worker)) == 2
    for job_id in job_ids:
        assert_as_if_nothing_broke(scene, job_id, finished)


def _runs(work: Callable[[], bool]) -> int:
    num = 0
    while work():
        num += 1
    return num
