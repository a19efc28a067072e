"""Jobs with knobs: resolved and shown, stopped early, with their best checkpoint as the model."""

from __future__ import annotations

from typing import Any

import pytest

from storage.models import models
from tests.factories import colour_rows
from tests.worker.job.test_resolve import resolve
from tests.worker.scene import FAKE, Scene, run_on_thread, script, wait_for
from training.messages import EarlyStopping, TrainConfig
from worker.job import control
from worker.job.run import run

KNOBS = {"n_epochs": 6, "batch_size": 2}
# Of the fake trainer's six epochs of five steps, the third is the best.
LOSSES = {"epoch_losses": [0.9, 0.7, 0.5, 0.6, 0.55, 0.5]}


def job(scene: Scene, **luthier: Any) -> str:
    hyperparameters = {**KNOBS, "luthier": luthier}
    return scene.job(validation=colour_rows(10), hyperparameters=hyperparameters)


def test_without_knobs_nothing_changes() -> None:
    plain = resolve(100)
    for field in ("lr_schedule", "weight_decay", "max_grad_norm", "dropout", "early_stopping"):
        assert getattr(plain.config, field) == TrainConfig.model_fields[field].default
    assert resolve(100, hyperparameters={"luthier": {}}) == plain
    assert control.shown({}, plain.config) == {}


def test_knobs_become_the_config_s_fields_and_are_shown() -> None:
    asked = {
        "n_epochs": 5,
        "batch_size": 5,
        "luthier": {
            "lr_schedule": "cosine",
            "warmup_ratio": 0.123,
            "weight_decay": 0.1,
            "keep": "best",
            "early_stopping": {"patience": 3},
        },
    }
    resolved = resolve(100, hyperparameters=asked)
    config = resolved.config
    assert (config.lr_schedule, config.weight_decay, config.warmup_steps) == ("cosine", 0.1, 13)
    assert config.early_stopping == EarlyStopping(metric="full_valid_loss", patience=3)
    assert resolved.reasons["warmup_steps"] == "0.123 of 100 steps"
    shown = control.shown(asked, config)["luthier"]
    assert shown == {
        "lr_schedule": "cosine",
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "dropout": 0.0,
        "neftune_noise_alpha": 0.0,
        "loraplus_ratio": 1.0,
        "shared": "auto",
        "warmup_steps": 13,
        "max_seq_len": 2048,
        "early_stopping": {"metric": "full_valid_loss", "patience": 3, "min_delta": 0.0},
        "keep": "best",
        "best_metric": "full_valid_loss",
    }
    assert config.may_share
    # What is shown, asked for again, is the same.
    assert resolve(100, hyperparameters={**asked, "luthier": shown}).config == config


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ({"warmup_steps": 7}, 7),
        ({"warmup_steps": 700}, 60),
        ({"warmup_ratio": 1}, 60),
        ({"lr_schedule": "constant"}, 0),
        ({"lr_schedule": "cosine"}, 3),
    ],
)
def test_the_warm_up_is_within_the_run(asked: dict[str, Any], steps: int) -> None:
    fields, _ = control.fields({"luthier": asked}, steps=60)
    assert fields["warmup_steps"] == steps


def test_examples_are_cut_to_the_length_that_was_asked_for(scene: Scene) -> None:
    rows = colour_rows(10)
    rows[3]["messages"][1]["content"] *= 20
    job_id = scene.job(rows, hyperparameters={**KNOBS, "luthier": {"max_seq_len": 64}})
    run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "succeeded"
    assert row.train_config is not None
    assert row.train_config["config"]["max_seq_len"] == 64
    assert row.hyperparameters["luthier"]["max_seq_len"] == 64


def test_the_best_checkpoint_becomes_the_model(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(**LOSSES))
    job_id = job(scene, keep="best")
    run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "succeeded", row.error
    checkpoints = {c.step: c.model_name for c in scene.checkpoints(job_id)}
    # The best one stays beside the newest three.
    assert list(checkpoints) == [30, 25, 20, 15]
    assert row.fine_tuned_model not in checkpoints.values()
    assert row.fine_tuned_model is not None
    assert ":ckpt-step-" not in row.fine_tuned_model
    assert (
        scene.weights(job_id) == scene.artifact_files(checkpoints[15])["adapter_model.safetensors"]
    )
    assert checkpoints[30].endswith(":ckpt-step-30")
    (event,) = [e for e in scene.events(job_id) if e.key == "best"]
    assert event.message == (
        "The checkpoint of step 15 is the model: the best by full_valid_loss, 0.5"
    )
    assert event.data == {"step": 15, "metric": "full_valid_loss", "value": 0.5}
    # Either name may go without the other.
    scene.change(lambda session: models.remove(session, scene.project_id, checkpoints[15]))
    scene.model(row.fine_tuned_model)


def test_the_last_checkpoint_that_is_the_best_keeps_its_name(scene: Scene) -> None:
    job_id = job(scene, keep="best")
    run(scene.worker())
    row = scene.row(job_id)
    assert row.fine_tuned_model == scene.checkpoints(job_id)[0].model_name
    assert row.fine_tuned_model is not None
    assert ":ckpt-step-" not in row.fine_tuned_model


@pytest.mark.slow
def test_a_best_checkpoint_that_its_owner_deleted_makes_way_for_the_last(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.05, **LOSSES))
    job_id = job(scene, keep="best")
    thread = run_on_thread(scene.worker())

    def best() -> list[str]:
        return [c.model_name for c in scene.checkpoints(job_id) if c.step == 15]

    wait_for(best, what="the checkpoint of step 15", timeout_s=60)
    scene.change(lambda session: models.remove(session, scene.project_id, best()[0]))
    thread.join(timeout=60)
    row = scene.row(job_id)
    assert row.status == "succeeded", row.error
    last = scene.checkpoints(job_id)[0].model_name
    assert scene.weights(job_id) == scene.artifact_files(last)["adapter_model.safetensors"]
    assert any("was deleted; the last one is the model" in m for m in scene.messages(job_id))


def test_a_job_that_stops_early_succeeds_and_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(stop_early_at=20, **LOSSES))
    job_id = job(scene, early_stopping={"metric": "full_valid_loss", "patience": 1}, keep="best")
    run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "succeeded", row.error
    assert scene.steps(job_id) == list(range(1, 21))
    assert row.trained_tokens == 4 * 10 * 7
    messages = scene.messages(job_id)
    assert "Training ended early at step 20/30: no gain in full_valid_loss for 1 epoch" in messages
    best = {c.step: c.model_name for c in scene.checkpoints(job_id)}[15]
    assert scene.weights(job_id) == scene.artifact_files(best)["adapter_model.safetensors"]


@pytest.mark.parametrize("point", ["after_checkpoint_commit", "before_succeed"])
def test_a_job_killed_behind_its_early_end_only_has_to_finish(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setenv(FAKE, script(stop_early_at=20, **LOSSES))
    job_id = job(scene, early_stopping={"patience": 1}, keep="best")
    worker = scene.worker()

    class Killed(BaseException):
        pass

    def crash(name: str) -> None:
        if name == point and any(e.key == "early_stopping" for e in scene.events(job_id)):
            raise Killed

    for module in ("publish", "finish"):
        monkeypatch.setattr(f"worker.job.{module}.crash_point", crash)
    with pytest.raises(Killed):
        run(worker)
    monkeypatch.undo()
    scene.end_pauses()
    scene.set(lease_owner=None, lease_expires_at=None)
    run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "succeeded", row.error
    assert scene.steps(job_id) == list(range(1, 21))
    keys = [e.key for e in scene.events(job_id)]
    assert len(keys) == len(set(keys))


def test_a_job_that_diverges_keeps_its_last_good_checkpoint(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {
        "code": "nan_loss",
        "message": "The training loss exploded to 120 at step 8. Lower it.",
        "param": None,
        "is_user_error": True,
    }
    monkeypatch.setenv(FAKE, script(checkpoint_every=7, failed=failed, fail_at=8))
    job_id = scene.job()
    run(scene.worker())
    row = scene.row(job_id)
    assert row.status == "failed"
    assert row.error is not None
    assert row.error["message"].endswith(
        "Lower it. The checkpoint of step 7 was kept and can be used as a model."
    )
    kept = scene.checkpoints(job_id)[0]
    assert kept.step == 7
    assert scene.artifact_files(kept.model_name)["adapter_model.safetensors"]
