"""Small jobs leave a worker's places to others."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from tests.factories import colour_rows
from tests.worker.scene import FAKE, Scene, assert_as_if_nothing_broke, script, wait_for
from worker import aside
from worker.aside import Aside
from worker.job.run import run


def test_who_does_not_make_way_is_waited_for() -> None:
    places = Aside(most=1)
    assert places.run(lambda: True)
    assert not places.run(lambda: False)

    def fail() -> bool:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        places.run(fail)
    places.make_way()  # on a thread that nobody waits for


def test_as_many_make_way_as_there_are_places() -> None:
    places, leave, at_work = Aside(most=2), threading.Event(), []

    def small() -> bool:
        at_work.append(threading.current_thread())
        places.make_way()
        return leave.wait(20)

    for _ in range(2):
        assert places.run(small)
    third = threading.Thread(target=places.run, args=(small,), daemon=True)
    third.start()
    wait_for(lambda: len(at_work) == 3, what="the third")
    third.join(0.05)
    assert third.is_alive()
    leave.set()
    places.join()
    third.join(20)
    assert not any(thread.is_alive() for thread in at_work)
    assert places.run(small)
    places.join()


@pytest.mark.parametrize(("shared", "num_aside"), [("auto", 3), ("never", 0)])
def test_small_jobs_that_may_share_make_way(
    scene: Scene, finished: Scene, monkeypatch: pytest.MonkeyPatch, shared: str, num_aside: int
) -> None:
    # A token of this base is a byte.
    monkeypatch.setattr(aside, "SMALL_PASS_TOKENS", 10_000)
    monkeypatch.setattr(aside, "MIN_AVAILABLE", 0.0)
    monkeypatch.setenv(FAKE, script())
    asked = {"n_epochs": 3, "batch_size": 2, "luthier": {"shared": shared}}
    job_ids = [
        scene.job(hyperparameters=asked, validation=colour_rows(10))
        for _ in range(max(num_aside, 1))
    ]
    worker = scene.worker()
    made_way: list[None] = []
    make_way = worker.aside.make_way
    monkeypatch.setattr(worker.aside, "make_way", lambda: made_way.append(make_way()))
    while worker.aside.run(partial(run, worker)):
        """Until there is nothing to claim."""
    worker.aside.join()
    assert len(made_way) == num_aside
    for job_id in job_ids:
        assert_as_if_nothing_broke(scene, job_id, finished)
