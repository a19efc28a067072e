"""What W&B gets to hear, recorded where its library begins; and, where that is installed, the library itself."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.worker.scene import FAKE, Scene, script, wait_for
from worker.job import wandb_runs
from worker.job.run import run

INTEGRATION = {"type": "wandb", "wandb": {"project": "colours", "tags": ["blue", "x" * 64]}}
WARNING = "Metrics are not sent to Weights & Biases: "


@dataclass
class RecordedRun:
    options: dict[str, Any]
    logged: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    exit_code: int | None = None

    def log(self, data: dict[str, Any], *, step: int) -> None:
        self.logged.append((step, data))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@dataclass
class RecordedLibrary:
    runs: list[RecordedRun] = field(default_factory=list)
    refusal: Exception | None = None

    def init(self, **options: Any) -> RecordedRun:
        if self.refusal is not None:
            raise self.refusal
        self.runs.append(RecordedRun(options))
        return self.runs[-1]

    def wait_until_ended(self, count: int = 1) -> list[RecordedRun]:
        wait_for(lambda: [r.exit_code is not None for r in self.runs] == [True] * count)
        return self.runs


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> RecordedLibrary:
    """In place of the package `wandb`, with a key."""
    recorded = RecordedLibrary()
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    vars(module).update(init=recorded.init, Settings=dict)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_API_KEY", "a-key")
    return recorded


def warnings(scene: Scene, job_id: str) -> list[str]:
    """But for the linter's: all the rows here have one answer."""
    told = [e.message for e in scene.events(job_id) if e.level == "warn"]
    return [message for message in told if not message.startswith("W511 ")]


def test_metrics_go_to_a_run_of_the_job_s_id(scene: Scene, library: RecordedLibrary) -> None:
    job_id = scene.job(integrations=[INTEGRATION])
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    (sent,) = library.wait_until_ended()
    options = sent.options
    assert (options["id"], options["name"], options["resume"]) == (job_id, job_id, "allow")
    assert (options["project"], options["entity"]) == ("colours", None)
    assert options["tags"] == [
        *("blue", "x" * 64),
        *("openai/finetune", "openai/tiny-random", f"openai/{job_id}"),
    ]
    assert options["config"]["n_epochs"] == 3
    assert options["config"]["model"] == "tiny-random"
    assert Path(options["dir"]).is_relative_to(scene.settings.data_dir)
    assert [step for step, _ in sent.logged] == list(range(1, 16))
    first = sent.logged[0][1]
    assert first.pop("learning_rate") > 0
    assert first == {
        "train_loss": 2.0,
        "train_mean_token_accuracy": 0.5,
        "total_steps": 15,
        "num_tokens": 14,
    }
    assert sent.exit_code == 0
    assert warnings(scene, job_id) == []


def test_each_integration_is_a_run_and_a_failed_job_a_failed_run(
    scene: Scene, library: RecordedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"code": "c", "message": "m", "param": None, "is_user_error": True}
    monkeypatch.setenv(FAKE, script(failed=failed, fail_at=2))
    wandb = {"project": "other", "entity": "team", "name": "my run"}
    job_id = scene.job(integrations=[INTEGRATION, {"type": "wandb", "wandb": wandb}])
    run(scene.worker())
    assert scene.row(job_id).status == "failed"
    runs = {sent.options["project"]: sent for sent in library.wait_until_ended(2)}
    assert [sent.exit_code for sent in runs.values()] == [1, 1]
    assert runs["other"].options["entity"] == "team"
    assert runs["other"].options["name"] == "my run"


def test_job_that_goes_on_goes_on_with_its_run(
    scene: Scene, library: RecordedLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FAKE, script(die_at=[7], die_once=str(tmp_path)))
    job_id = scene.job(integrations=[INTEGRATION])
    worker = scene.worker()
    run(worker)
    run(worker)
    assert scene.row(job_id).status == "succeeded"
    first, second = library.wait_until_ended(2)
    assert first.options["id"] == second.options["id"] == job_id
    assert [step for step, _ in second.logged] == list(range(6, 16))


def test_refusal_of_wandb_is_a_warning_and_training_goes_on(
    scene: Scene, library: RecordedLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAKE, script(step_s=0.05))
    library.refusal = PermissionError("entity nobody\nnot found")
    job_id = scene.job(integrations=[INTEGRATION])
    run(scene.worker())
    assert scene.row(job_id).status == "succeeded"
    assert warnings(scene, job_id) == [f"{WARNING}entity nobody not found"]


def test_what_is_missing_is_told_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_runs, "missing", lambda: "the worker lacks it")
    plain, asking = scene.job(), scene.job(integrations=[INTEGRATION])
    worker = scene.worker()
    for job_id in (plain, asking):
        run(worker)
        assert scene.row(job_id).status == "succeeded"
    assert warnings(scene, plain) == []
    assert warnings(scene, asking) == [f"{WARNING}the worker lacks it"]


def test_library_and_key_are_needed(library: RecordedLibrary) -> None:
    assert wandb_runs.missing({"WANDB_API_KEY": "a-key"}) is None
    assert wandb_runs.missing({"WANDB_MODE": "offline"}) is None
    reason = "the worker's environment has neither WANDB_API_KEY nor WANDB_MODE=offline"
    assert wandb_runs.missing({"WANDB_MODE": "online"}) == reason


def test_a_library_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert wandb_runs.missing({"WANDB_API_KEY": "a-key"}) == (
        "the worker lacks the Python package wandb"
    )


@pytest.mark.slow
def test_the_real_library_keeps_an_offline_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    job_id = scene.job(integrations=[INTEGRATION])
    run(scene.worker())
    assert warnings(scene, job_id) == []
    folder = scene.settings.data_dir / "wandb"
    wait_for(lambda: list(folder.rglob(f"run-{job_id}.wandb")), what="the offline run")
