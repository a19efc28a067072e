"""Jobs that go on from a model of another kind or size: it is merged first, and all of it is in what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from modeling.artifacts import kinds
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.merge import Merge
from modeling.artifacts.model_tensors import HEAD
from modeling.layout import Layout
from modeling.trainable.trainable import PackedRow
from tests.training import jobs
from tests.training.reports import checkpoints_of, steps_of
from tests.training.tuning.test_kinds import files_of
from training.losses.cross_entropy import cross_entropy
from training.messages import (
    Failed,
    Full,
    Lora,
    OutputLayers,
    Prefix,
    Report,
    Start,
    Started,
    Trainable,
)
from training.primitives import Learner, load_base
from training.process import JobRunner

IDS = torch.arange(20)[None]
STARTS: dict[str, Trainable] = {
    "lora": Lora(rank=4, alpha=32.0, target_modules=("q_proj", "down_proj")),
    "output_layers": OutputLayers(num_blocks=1, train_head=True),
    "full": Full(),
}
WIDER = Lora(rank=6, alpha=12.0, target_modules=("v_proj", "down_proj"))
BLOCKS = OutputLayers(num_blocks=2)
CASES: list[tuple[str, Trainable, str]] = [
    ("lora", WIDER, "lora"),
    ("lora", BLOCKS, "full"),
    ("lora", Full(), "full"),
    ("output_layers", WIDER, "full"),
    ("output_layers", BLOCKS, "output_layers"),
    ("output_layers", Full(), "full"),
    ("full", WIDER, "full"),
    ("full", BLOCKS, "full"),
]
SLOW = [*CASES[1:4], *CASES[5:7]]
"""Jobs of these differ from others in what the next test looks at alone."""


def artifact_of(reports: list[Report]) -> Path:
    return Path(checkpoints_of(reports)[-1].path) / "artifact"


@pytest.fixture(scope="module")
def starts(tied_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind the artifacts of jobs that have learnt something."""
    found = {}
    for kind, trainable in STARTS.items():
        folder = tmp_path_factory.mktemp(kind)
        job = jobs.start(tied_path, folder, trainable=trainable, learning_rate=1e-2)
        found[kind] = artifact_of(list(jobs.run(job)))
    return found


def going_on(base_path: Path, folder: Path, kind: str, start: Path, **changes: Any) -> Start:
    job = jobs.start(base_path, folder, **{"learning_rate": 1e-3, **changes})
    began = {"init_artifact": str(start), "init_kind": kind, "merges_init": True}
    return job.model_copy(update=began)


def read(kind: str, folder: Path, tied_path: Path) -> Artifact:
    return kinds.format_of(kind).read(folder, AutoConfig.from_pretrained(tied_path))


def published_logits(tied_path: Path, artifact: Artifact) -> Tensor:
    """What transformers makes of the base with a model merged into it."""
    model: Any = AutoModelForCausalLM.from_pretrained(tied_path, dtype=torch.float32)
    merge = Merge(artifact, base_is_tied=True)
    if not merge.is_tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(merge.weight(name, parameter))
        found: Tensor = model(IDS).logits[0]
    return found


def trained_logits(learner: Learner) -> Tensor:
    row = PackedRow(IDS[0], IDS[0], Layout.of_lengths([IDS.shape[1]]))
    with torch.no_grad():
        return learner._trainable.hidden_states(row) @ learner._output.T


@pytest.mark.parametrize(("start", "trainable", "published"), CASES, ids=str)
def test_it_begins_as_the_tuned_model_and_what_it_computes_is_published(
    starts: dict[str, Path],
    tied_path: Path,
    tmp_path: Path,
    start: str,
    trainable: Trainable,
    published: str,
) -> None:
    begun = read(start, starts[start], tied_path)
    config = jobs.config(tied_path, trainable=trainable)
    learner = Learner(load_base(tied_path, "fp32"), config, None, begun)
    expected = published_logits(tied_path, begun)
    torch.testing.assert_close(trained_logits(learner), expected, atol=1e-4, rtol=1e-4)
    for batch in jobs.micro_batches(jobs.examples(tied_path, tmp_path, 3), 200):
        learner.forward_backward(batch, cross_entropy, 30)
    learner.optim_step(1e-2, 1.0)
    moved = trained_logits(learner)
    assert (moved - expected).abs().max() > 0.1
    artifact = learner.artifact()
    assert artifact.kind == published
    # bf16 keeps 8 bits of each weight; adapters are exact.
    tolerance = 1e-4 if published == "lora" else 0.1
    torch.testing.assert_close(
        published_logits(tied_path, artifact), moved, atol=tolerance, rtol=tolerance
    )
    has_own_head = published != "lora" and start == "output_layers"
    assert (HEAD in artifact.tensors) == has_own_head
    learner.close()


@pytest.mark.parametrize(
    ("start", "trainable", "published"),
    [*CASES[:1], CASES[4], CASES[7], *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)],
    ids=str,
)
def test_it_learns_and_resumes_bit_for_bit(
    starts: dict[str, Path],
    tied_path: Path,
    tmp_path: Path,
    start: str,
    trainable: Trainable,
    published: str,
) -> None:
    numbers = {"trainable": trainable, "checkpoint_interval_s": 0, "n_epochs": 1}
    job = going_on(tied_path, tmp_path, start, starts[start], **numbers)
    whole = list(jobs.run(job))
    files = files_of(checkpoints_of(whole)[-1])
    assert read(published, artifact_of(whole), tied_path).kind == published
    assert steps_of(whole)[0].values["train_loss"] < 4  # the base begins at 5.6
    at_two = next(saved for saved in checkpoints_of(whole) if saved.step == 2)
    after = list(jobs.run(job.model_copy(update={"resume_from": at_two.path})))
    assert isinstance(after[0], Started)
    assert (after[0].step, after[0].exact_resume) == (2, True)
    assert steps_of(after) == steps_of(whole)[2:]
    assert files_of(checkpoints_of(after)[-1]) == files


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_the_base_s_next_job_finds_it_as_it_was(
    starts: dict[str, Path],
    tied_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    monkeypatch.setattr("training.process.choose_precision", lambda _: precision)
    runner = JobRunner()
    for kind in STARTS:
        job = going_on(tied_path, tmp_path / kind, kind, starts[kind], trainable=WIDER, n_epochs=1)
        for report in runner.reports(job, lambda: None):
            assert not isinstance(report, Failed)
            # Another job may train on it between any two reports.
            _check_is_plain(runner, tied_path, precision)
    _check_is_plain(runner, tied_path, precision)


def _check_is_plain(runner: JobRunner, tied_path: Path, precision: str) -> None:
    with runner._bases.lent(tied_path, precision) as model:  # type: ignore[arg-type]
        fresh = load_base(tied_path, precision)  # type: ignore[arg-type]
        assert model.state_dict().keys() == fresh.state_dict().keys()
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_prefix_is_not_trained_on_merged_weights(
    starts: dict[str, Path], tied_path: Path, tmp_path: Path
) -> None:
    numbers = {"trainable": Prefix(num_virtual_tokens=4)}
    reports = list(jobs.run(going_on(tied_path, tmp_path, "lora", starts["lora"], **numbers)))
    assert isinstance(reports[-1], Failed)
    assert (reports[-1].code, reports[-1].param) == ("invalid_model", "model")


def test_an_adapter_on_an_adapter_is_one_of_both_ranks(
    starts: dict[str, Path], tied_path: Path, tmp_path: Path
) -> None:
    job = going_on(tied_path, tmp_path, "lora", starts["lora"], trainable=WIDER, n_epochs=1)
    folder = artifact_of(list(jobs.run(job)))
    both = read("lora", folder, tied_path)
    assert both.spec["rank"] == 10
    assert both.spec["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {a.shape[0] for name, a in tensors.items() if name.endswith("lora_A.weight")} == {10}
    # All of it can go on learning: nothing is zero on both sides.
    assert all(bool(a.abs().sum(1).all()) for name, a in tensors.items() if "lora_A" in name)
    on = jobs.start(tied_path, tmp_path / "on", trainable=Lora(**both.spec | {"kind": "lora"}))
    reports = list(jobs.run(on.model_copy(update={"init_artifact": str(folder)})))
    assert not isinstance(reports[-1], Failed)
