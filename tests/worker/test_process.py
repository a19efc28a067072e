"""The worker as it is started, with the real trainer at its side."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load

from foundation import leash
from modeling.artifacts.artifact import Artifact
from storage import queue
from tests import servers
from tests.factories import colour_rows
from tests.worker.scene import Scene, wait_for

STEPS = {"n_epochs": 3, "batch_size": 4}


def environment(scene: Scene) -> dict[str, str]:
    settings = scene.settings
    return {
        **servers.environment(settings),
        "LUTHIER_BASES_DIR": str(settings.bases_dir),
        "OMP_NUM_THREADS": "1",
        leash.ENV: "1",
    }


@contextmanager
def working(scene: Scene) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m worker`; ended the hard way if the test has not ended it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "worker"], env=environment(scene), stdin=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def status(scene: Scene, job_id: str) -> str:
    return scene.row(job_id).status


def trainers(scene: Scene) -> list[int]:
    """Pids of the trainers of this scene's workers."""
    marker = f"LUTHIER_DATA_DIR={scene.settings.data_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_trainer = b"training" in (entry / "cmdline").read_bytes()
            if is_trainer and marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_jobs_are_trained_and_the_second_does_not_wait_for_the_base(scene: Scene) -> None:
    with working(scene):
        first = scene.job(colour_rows(20), validation=colour_rows(10), hyperparameters=STEPS)
        began = time.monotonic()
        queue.ring(first)
        wait_for(lambda: scene.steps(first), 180, "its first step")
        with_base_s = time.monotonic() - began
        wait_for(lambda: status(scene, first) in ("succeeded", "failed"), 180, "the first job")
        job = scene.row(first)
        assert job.status == "succeeded", (job.error, scene.messages(first))
        assert scene.steps(first) == list(range(1, 16))
        assert job.trained_tokens is not None
        assert job.trained_tokens % 3 == 0
        assert [c.step for c in scene.checkpoints(first)] == [15, 10, 5]
        model = job.fine_tuned_model or ""
        weights = load(scene.artifact_files(model)["adapter_model.safetensors"])
        assert scene.artifact_tensors(model) == Artifact("lora", {}, weights).manifest()["tensors"]
        began = time.monotonic()
        second = scene.job(colour_rows(20), hyperparameters=STEPS)
        queue.ring(second)
        wait_for(lambda: scene.steps(second), 90, "a step of the second job")
        assert time.monotonic() - began < with_base_s
        wait_for(lambda: status(scene, second) == "succeeded", 90, "the second job")


@pytest.mark.slow
def test_sigterm_in_the_middle_leaves_a_job_that_goes_on_exactly(scene: Scene) -> None:
    hyperparameters = {"n_epochs": 20, "batch_size": 1}
    unbroken = scene.job(hyperparameters=hyperparameters)
    with working(scene) as process:
        queue.ring(unbroken)
        wait_for(lambda: status(scene, unbroken) == "succeeded", 180, "the unbroken job")
        broken = scene.job(hyperparameters=hyperparameters)
        queue.ring(broken)
        wait_for(lambda: len(scene.steps(broken)) >= 5, 60, "five steps")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
        assert time.monotonic() - began < 8
        assert trainers(scene) == []
    job = scene.row(broken)
    assert (job.status, job.lease_owner, job.attempt) == ("running", None, 0)
    with working(scene):
        # Nobody rings: the message of its last worker waits, or the sweep finds it.
        wait_for(lambda: status(scene, broken) == "succeeded", 180, "the rest")
    assert scene.weights(broken) == scene.weights(unbroken)
    assert scene.steps(broken) == list(range(1, 201))


def test_trainer_ends_with_a_worker_that_is_killed_and_worker_with_its_parent(
    scene: Scene,
) -> None:
    with working(scene) as process:
        wait_for(lambda: trainers(scene), 30, "the trainer")
        process.kill()
        process.wait()
        wait_for(lambda: not trainers(scene), 10, "the trainer's end")
    with working(scene) as process:
        wait_for(lambda: trainers(scene), 30, "the trainer")
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(timeout=10) == 1
        wait_for(lambda: not trainers(scene), 10, "the trainer's end")


def test_missing_setting_is_one_clear_line(scene: Scene) -> None:
    left_out = {"LUTHIER_BLOB_URL", leash.ENV}
    env = {k: v for k, v in environment(scene).items() if k not in left_out}
    done = subprocess.run(
        [sys.executable, "-m", "worker"], env=env, capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["LUTHIER_BLOB_URL is not set"]
