"""Each kind of what a job changes: learns, resumes bit for bit, goes on from its artifact, gives the base back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from training.messages import (
    CheckpointSaved,
    Classification,
    Failed,
    Full,
    OutputLayers,
    Report,
    Trainable,
    Unsupervised,
)
from training.primitives import load_base
from training.process import JobRunner

KINDS: list[Trainable] = [
    Full(),
    OutputLayers(num_blocks=1),
    OutputLayers(num_blocks=2, train_head=True),
]


def files_of(saved: CheckpointSaved) -> dict[str, bytes]:
    """The artifact, the moments and the exact parameters; not when they were written."""
    folder = Path(saved.path)
    paths = [*(folder / "artifact").iterdir(), folder / "state" / "optimizer.safetensors"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def unbroken(
    request: pytest.FixtureRequest, base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trainable, list[Report]]:
    kind: Trainable = request.param
    job = jobs.start(base_path, tmp_path_factory.mktemp(kind.kind), trainable=kind)
    return kind, list(jobs.run(job))


def test_it_learns(unbroken: tuple[Trainable, list[Report]]) -> None:
    metrics = steps_of(unbroken[1])
    assert metrics[-1].values["full_valid_loss"] < metrics[4].values["full_valid_loss"]
    assert metrics[-1].values["train_loss"] < 0.9 * metrics[0].values["train_loss"]


def test_job_goes_on_from_a_model_of_its_kind(
    unbroken: tuple[Trainable, list[Report]], base_path: Path, tmp_path: Path
) -> None:
    kind, whole = unbroken
    tuned = Path(checkpoints_of(whole)[-1].path) / "artifact"
    job = jobs.start(base_path, tmp_path, trainable=kind)
    first = steps_of(list(jobs.run(job.model_copy(update={"init_artifact": str(tuned)}))))[0]
    assert first.values["train_loss"] < 0.9 * steps_of(whole)[0].values["train_loss"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_batch_overfits(base_path: Path, tmp_path: Path, kind: Trainable) -> None:
    numbers = {"n_epochs": 20, "batch_size": 3, "warmup_steps": 2, "learning_rate": 1.2e-2}
    job = jobs.start(base_path, tmp_path, trainable=kind, **numbers)
    chats = jobs.write_chats(tmp_path / "chats.jsonl", 3)
    sets = {"training_set": str(jobs.tokenized(chats, base_path)), "validation_set": None}
    last = steps_of(list(jobs.run(job.model_copy(update=sets))))[-1]
    assert last.values["train_loss"] < 0.2
    assert last.values["train_mean_token_accuracy"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_raw_text_is_learnt_too(base_path: Path, tmp_path: Path, kind: Trainable) -> None:
    job = jobs.start(base_path, tmp_path, trainable=kind, method=Unsupervised(overlap=5))
    first, *_, last = steps_of(list(jobs.run(job)))
    assert last.values["train_perplexity"] < 0.9 * first.values["train_perplexity"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_labels_are_learnt_too(base_path: Path, tmp_path: Path, kind: Trainable) -> None:
    job = jobs.start(base_path, tmp_path, trainable=kind, method=Classification())
    first, *_, last = steps_of(list(jobs.run(job)))
    assert last.values["train_loss"] < 0.9 * first.values["train_loss"]
    confusion = last.tables["full_valid_confusion"]
    assert sum(n for row in confusion.values() for n in row.values()) == 6


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_the_base_s_next_job_finds_it_as_it_was(
    base_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Trainable,
    precision: str,
) -> None:
    monkeypatch.setattr("training.process.choose_precision", lambda _: precision)
    runner = JobRunner()
    job = jobs.start(base_path, tmp_path, trainable=kind, n_epochs=1)
    reports = list(runner.reports(job, lambda: None))
    assert not any(isinstance(report, Failed) for report in reports)
    with runner._bases.lent(base_path, precision) as model:  # type: ignore[arg-type]
        fresh = load_base(base_path, precision)  # type: ignore[arg-type]
    stored = load_file(base_path / "model.safetensors")
    assert stored.keys() == model.state_dict().keys() == fresh.state_dict().keys()
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    places = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    assert len(places) - len(set(places)) == int(model.config.tie_word_embeddings)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("rate", [1e2, 1e30])
def test_a_rate_out_of_all_bounds_fails_the_job_and_leaves_nothing(
    base_path: Path, tmp_path: Path, kind: Trainable, rate: float
) -> None:
    numbers = {"learning_rate": rate, "learning_rate_multiplier": 1e3, "warmup_steps": 0}
    job = jobs.start(base_path, tmp_path, trainable=kind, **numbers)
    reports = list(jobs.run(job.model_copy(update={"validation_set": None})))
    failed = reports[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.is_user_error) == ("nan_loss", True)
    assert checkpoints_of(reports) == []
