"""Many small jobs in one worker, with the real trainer, while some are cancelled or paused and what runs them is killed."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest

from storage import queue
from storage.jobs import jobs, pauses
from tests.factories import colour_rows
from tests.worker.scene import Scene, wait_for
from tests.worker.test_process import status, trainers, working

ROWS = colour_rows(12)
NUMBERS = {"n_epochs": 6, "batch_size": 1}
NUM_STEPS = 72
SMALL = 5
PATIENCE_S = 300


def create(scene: Scene, **luthier: Any) -> str:
    job_id = scene.job(ROWS, hyperparameters={**NUMBERS, "luthier": luthier})
    queue.ring(job_id)
    return job_id


def has_ended(scene: Scene, job_id: str) -> bool:
    return status(scene, job_id) in ("succeeded", "failed", "cancelled")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_jobs_come_out_as_if_nothing_had_happened_beside_them(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    with working(scene):
        unbroken = create(scene, shared="never")
        wait_for(lambda: has_ended(scene, unbroken), PATIENCE_S, "the job that is alone")
    small = [create(scene) for _ in range(SMALL)]
    never, cancelled, paused = create(scene, shared="never"), create(scene), create(scene)
    everyone = [*small, never, cancelled, paused]
    for kills in ("trainer", "worker", ""):
        with working(scene) as process:
            # Wherever they are by then.
            watched = chance.choice([*small, paused])
            until = len(scene.steps(watched)) + chance.randint(1, 20)
            wait_for(
                lambda job_id=watched, n=until: (
                    len(scene.steps(job_id)) >= n  # type: ignore[misc]
                    or has_ended(scene, job_id)
                ),
                PATIENCE_S,
                "some steps",
            )
            if kills == "trainer":
                for pid in trainers(scene):
                    os.kill(pid, signal.SIGKILL)
                scene.change(lambda s: pauses.pause(s, scene.project_id, paused))
                wait_for(
                    lambda: status(scene, paused) in ("paused", "succeeded"), PATIENCE_S, "a pause"
                )
            elif kills == "worker":
                if not has_ended(scene, cancelled):
                    scene.change(lambda s: jobs.cancel(s, scene.project_id, cancelled))
                process.kill()
                process.wait()
                scene.set(crashes=0)
            else:
                if status(scene, paused) == "paused":
                    scene.change(lambda s: pauses.resume(s, scene.project_id, paused))
                    queue.ring(paused)
                for job_id in everyone:
                    wait_for(lambda name=job_id: has_ended(scene, name), PATIENCE_S, job_id)  # type: ignore[misc]
    assert status(scene, cancelled) in ("cancelled", "succeeded")
    for job_id in [*small, never, paused]:
        job = scene.row(job_id)
        assert job.status == "succeeded", (job.error, scene.messages(job_id))
        assert scene.steps(job_id) == list(range(1, NUM_STEPS + 1))
        keys = [event.key for event in scene.events(job_id)]
        assert len(keys) == len(set(keys))
    assert scene.weights(never) == scene.weights(unbroken)
    assert scene.metrics(never) == scene.metrics(unbroken)
