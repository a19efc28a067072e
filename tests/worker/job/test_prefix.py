"""Jobs that tune a prefix, from the rows to the model and on from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.models import models
from tests.factories import Json, colour_rows
from tests.worker.scene import Scene
from training.messages import Lora, Prefix, Trainable
from worker import trainer
from worker.endings import JobFailed
from worker.job import trainables
from worker.job.run import run

V = 24


@pytest.mark.slow
def test_a_job_becomes_a_prefix_and_goes_on_from_it(scene: Scene) -> None:
    asked = {"n_epochs": 2, "batch_size": 5}
    job_id = scene.job(
        validation=colour_rows(3),
        hyperparameters=asked,
        tuning={"type": "prefix", "length": V},
    )
    run(scene.worker(trainer.COMMAND))
    job = scene.row(job_id)
    assert job.status == "succeeded", (job.error, scene.messages(job_id))
    assert job.train_config is not None
    assert job.train_config["config"]["trainable"] == {"kind": "prefix", "num_virtual_tokens": V}
    assert job.train_config["config"]["max_seq_len"] == 2048 - V
    assert job.fine_tuned_model is not None
    with scene.sessions() as session:
        found = models.find(session, scene.project_id, job.fine_tuned_model)
    assert found is not None
    _, artifact = found
    assert artifact.kind == "prefix"
    assert artifact.spec["num_virtual_tokens"] == V

    again = scene.job(
        hyperparameters=asked, model=job.fine_tuned_model, init_artifact_id=artifact.id
    )
    run(scene.worker(trainer.COMMAND))
    second = scene.row(again)
    assert second.status == "succeeded", (second.error, scene.messages(again))
    assert second.train_config is not None
    for name in ("trainable", "max_seq_len"):
        assert second.train_config["config"][name] == job.train_config["config"][name]
    assert scene.metrics(again)[0]["train_loss"] < scene.metrics(job_id)[0]["train_loss"]


def test_what_a_job_keeps_of_the_context() -> None:
    def kept(tuning: Json | None, goes_on_with: Trainable | None) -> int:
        return trainables.num_virtual_tokens(tuning, goes_on_with, 100)

    assert kept(None, None) == 0
    assert kept({"type": "lora", "rank": 8}, None) == 0
    assert kept({"type": "prefix", "length": "auto"}, None) == 16
    assert kept({"type": "prefix", "length": 99}, None) == 99
    assert kept(None, Prefix(num_virtual_tokens=20)) == 20
    # What it goes on from says more than what was asked.
    assert kept({"type": "prefix", "length": "auto"}, Prefix(num_virtual_tokens=20)) == 20
    assert kept(None, Lora(rank=8, alpha=32, target_modules=("q_proj",))) == 0
    with pytest.raises(JobFailed, match="100 virtual tokens leaves no room in the context of 100"):
        kept({"type": "prefix", "length": 100}, None)
    with pytest.raises(JobFailed, match="a single virtual token"):
        kept(None, Prefix(num_virtual_tokens=1))


def test_of_a_prefix_a_job_takes_over_its_length(tmp_path: Path) -> None:
    spec = {"num_virtual_tokens": V, "num_layers": 2, "num_attention_heads": 2, "token_dim": 32}
    found = trainables.of_artifact("prefix", spec, tmp_path)
    assert found == Prefix(num_virtual_tokens=V)
