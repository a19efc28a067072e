"""Jobs that change the base's own weights, from the row to the model, with the real trainer."""

from __future__ import annotations

from typing import Any

import pytest

from foundation.crash_points import ENV
from storage.jobs.jobs import JobRow
from storage.sweep import free_leases_of_dead
from tests.factories import colour_rows
from tests.worker import one_run
from tests.worker.scene import Scene
from worker import trainer
from worker.job.run import run

NUMBERS: dict[str, Any] = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}
CRASHES = ("after_config", "after_start", "after_upload", "after_checkpoint_commit")


def artifact_of(scene: Scene, job_id: str) -> tuple[str, dict[str, bytes]]:
    """Its kind and its files."""
    job = scene.row(job_id)
    assert job.status == "succeeded", (job.error, scene.messages(job_id))
    assert job.fine_tuned_model is not None
    return scene.model(job.fine_tuned_model)[1].kind, scene.artifact_files(job.fine_tuned_model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "resolved", "spec"),
    [
        ({"type": "full"}, {"type": "full"}, {}),
        (
            {"type": "output_layers", "blocks": "auto", "head": True},
            {"type": "output_layers", "blocks": 2, "head": True},
            {"num_blocks": 2, "train_head": True},
        ),
        (
            {"type": "lora", "rank": 4, "alpha": "auto", "targets": ["q_proj"], "rslora": True},
            {"type": "lora", "rank": 4, "alpha": 32.0, "targets": ["q_proj"], "rslora": True},
            {"rank": 4, "alpha": 32.0, "target_modules": ["q_proj"], "use_rslora": True},
        ),
    ],
    ids=["full", "output_layers", "lora"],
)
def test_a_job_killed_at_crash_points_in_turn_makes_the_model_of_an_unbroken_one(
    scene: Scene, asked: dict[str, Any], resolved: dict[str, Any], spec: dict[str, Any]
) -> None:
    rows = colour_rows(12)
    unbroken = scene.job(rows, validation=rows, hyperparameters=NUMBERS, tuning=asked)
    worker = scene.worker(trainer.COMMAND)
    run(worker)
    kind, files = artifact_of(scene, unbroken)
    assert kind == asked["type"]
    assert scene.row(unbroken).tuning == resolved
    killed = scene.job(rows, validation=rows, hyperparameters=NUMBERS, tuning=asked)
    for name in CRASHES:
        process = one_run.start(scene, trainer.COMMAND, **{ENV: name})
        process.join(timeout=60)
        assert process.exitcode == 137, name
        scene.set(crashes=0)
    free_leases_of_dead(worker, JobRow)
    run(worker)
    assert artifact_of(scene, killed) == (kind, files)
    assert scene.metrics(killed) == scene.metrics(unbroken)
    told = [event.key for event in scene.events(killed) if event.level == "info"]
    assert len(set(told)) == len(told)

    _, artifact = scene.model(scene.row(killed).fine_tuned_model or "")
    assert artifact.spec == spec
    on = scene.job(rows, model="ft:m", init_artifact_id=artifact.id, hyperparameters=NUMBERS)
    run(worker)
    assert artifact_of(scene, on)[0] == kind
    first, began = scene.metrics(on)[0], scene.metrics(unbroken)[0]
    assert first["train_loss"] < began["train_loss"]
    if kind == "lora":
        full = scene.job(
            rows,
            model="ft:m",
            init_artifact_id=artifact.id,
            hyperparameters=NUMBERS,
            tuning={"type": "full"},
        )
        run(worker)
        assert artifact_of(scene, full)[0] == "full"
        merged = scene.metrics(full)[0]["train_loss"]
        assert merged == pytest.approx(first["train_loss"], rel=0.02)
