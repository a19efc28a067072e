"""Workers and trainers that are killed again and again where a seed draws it, with the real trainer: nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from foundation.crash_points import ENV, NAMES, TRAINER_NAMES
from storage.jobs.jobs import JobRow
from storage.sweep import free_leases_of_dead
from tests.factories import colour_rows
from tests.worker import one_run
from tests.worker.scene import Scene
from worker import trainer
from worker.cleanup import Cleanup
from worker.job.run import run

NUMBERS: dict[str, Any] = {"n_epochs": 4, "batch_size": 4, "luthier": {"shared": "never"}}
NOISE = {"shared": "never", "dropout": 0.1, "neftune_noise_alpha": 5.0}
PAIRS = [
    {
        "input": {"messages": [{"role": "user", "content": f"What is {number}?"}]},
        "preferred_output": [{"role": "assistant", "content": f"It is {number}."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea." + "!" * number}],
    }
    for number in range(12)
]
LABELLED = [
    {"text": f"Number {number}", "label": ("odd", "even")[number % 2]} for number in range(12)
]
TEXTS = [{"text": f"Number {number} is a number. " * (1 + number % 3)} for number in range(12)]
CASES: dict[str, dict[str, Any]] = {
    "supervised lora": {"hyperparameters": {**NUMBERS, "luthier": NOISE}},
    "dpo lora": {"method": "dpo", "rows": PAIRS},
    "classification head": {
        "method": "classification",
        "rows": LABELLED,
        "hyperparameters": {**NUMBERS, "head": True},
    },
    "unsupervised prefix": {
        "method": "unsupervised",
        "rows": TEXTS,
        "tuning": {"type": "prefix", "length": 4},
    },
    "supervised full": {"tuning": {"type": "full"}},
}
NUM_KILLS = 6
MAX_WAIT_S = 8.0
"""Before a kill at a time that is drawn: about as long as an attempt takes."""


def create(scene: Scene, rows: Any = None, **values: Any) -> str:
    rows = rows or colour_rows(12)
    return scene.job(rows, validation=rows[:4], **{"hyperparameters": NUMBERS, **values})


def killed_once(scene: Scene, chance: random.Random) -> str:
    """An attempt in a process of its own that is killed, or its trainer, if it comes so far. Says where."""
    name = chance.choice([*NAMES, *TRAINER_NAMES, "worker", "trainer"])
    env = {ENV: f"{name}:{chance.randint(1, 3)}"}
    process = one_run.start(scene, trainer.COMMAND, **env)
    if name in ("worker", "trainer"):
        process.join(timeout=chance.uniform(0, MAX_WAIT_S))
        pid = process.pid if name == "worker" else child_of(process.pid)
        if pid is not None and process.is_alive():
            os.kill(pid, signal.SIGKILL)
    process.join(timeout=600)
    assert process.exitcode is not None, env
    # More deaths in a row than a job may have; here they are what is tested.
    scene.set(crashes=0)
    scene.end_pauses()
    return env[ENV]


def child_of(pid: int | None) -> int | None:
    """The process that it started, if it has come so far."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            return int(child)
    return None


def told(scene: Scene, job_id: str) -> list[str]:
    return [event.key for event in scene.events(job_id) if event.level == "info"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_job_whose_processes_are_killed_at_random_comes_out_as_if_they_were_not(
    scene: Scene, case: str
) -> None:
    whole = create(scene, **CASES[case])
    worker = scene.worker(trainer.COMMAND)
    run(worker)
    assert scene.row(whole).status == "succeeded", scene.row(whole).error
    killed = create(scene, **CASES[case])
    chance = random.Random(case)
    where: list[str] = []
    while len(where) < NUM_KILLS and scene.row(killed).status != "succeeded":
        where.append(killed_once(scene, chance))
    free_leases_of_dead(worker, JobRow)
    run(worker)
    job, unbroken = scene.row(killed), scene.row(whole)
    assert job.status == "succeeded", (where, job.error)
    assert job.fine_tuned_model is not None
    assert unbroken.fine_tuned_model is not None
    expected = scene.artifact_files(unbroken.fine_tuned_model)
    assert scene.artifact_files(job.fine_tuned_model) == expected, where
    assert scene.metrics(killed) == scene.metrics(whole), where
    assert told(scene, killed) == told(scene, whole), where
    steps = [saved.step for saved in scene.checkpoints(whole)]
    assert [saved.step for saved in scene.checkpoints(killed)] == steps
    Cleanup(scene.sessions, scene.blobs).once()
    assert scene.blob_keys("jobs/") == []
