"""Passes of several jobs made as one, beside each made alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.training import jobs
from training.batches import MicroBatch
from training.logprobs import Scores
from training.losses.cross_entropy import cross_entropy
from training.messages import Lora
from training.primitives import Learner, load_base
from training.sharing import fused
from training.sharing.fused import Pass

TRAINABLES = (
    Lora(rank=2, alpha=8.0, target_modules=jobs.ALL_LINEAR),
    Lora(rank=8, alpha=32.0, target_modules=("q_proj", "v_proj")),
    Lora(rank=3, alpha=32.0, target_modules=("down_proj", "q_proj"), use_rslora=True),
)


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture(scope="module")
def batches(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[MicroBatch]:
    examples = jobs.examples(base_path, tmp_path_factory.mktemp("rows"), 9)
    return [jobs.micro_batches(examples[at : at + 3], 1000)[0] for at in (0, 3, 6)]


def learners_on(model: PreTrainedModel, base_path: Path) -> list[Learner]:
    """All outside of the model."""
    found = []
    for seed, trainable in enumerate(TRAINABLES):
        learner = Learner(
            model, jobs.config(base_path, seed=seed, trainable=trainable, shared="auto")
        )
        jobs.make_effective(learner)
        learner.close()
        found.append(learner)
    return found


def passes_of(learners: Sequence[Learner], batches: Sequence[MicroBatch]) -> list[Pass]:
    return [
        Pass(learner, batch, cross_entropy, 5.0 + number)
        for number, (learner, batch) in enumerate(zip(learners, batches, strict=True))
    ]


def value_of(planned: Pass) -> Tensor:
    assert planned.outcome is not None
    return planned.outcome[0]


def gradients_of(learner: Learner) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None}


def alone(
    planned: Pass, base_path: Path, trainable: Lora
) -> tuple[Tensor, Scores, dict[str, Tensor]]:
    """What the pass gives on a base of its own, and its gradients."""
    other = Learner(
        load_base(base_path, "fp32"), jobs.config(base_path, seed=0, trainable=trainable)
    )
    for mine, theirs in zip(
        other.parameters.values(), planned.learner.parameters.values(), strict=True
    ):
        mine.data.copy_(theirs)
    value, scores = other.forward_backward(planned.batch, planned.loss, planned.denominator)
    return value, scores, gradients_of(other)


def test_a_fused_pass_gives_each_job_what_it_gets_alone(
    model: PreTrainedModel, batches: list[MicroBatch], base_path: Path
) -> None:
    """Of different ranks, scales, layers, denominators and lengths; a second one adds up."""
    learners = learners_on(model, base_path)
    before = {name: type(module) for name, module in model.named_modules()}
    for _ in range(2):
        passes = passes_of(learners, batches)
        fused.make(passes)
    assert {name: type(module) for name, module in model.named_modules()} == before
    for planned, trainable in zip(passes, TRAINABLES, strict=True):
        value, scores, gradients = alone(planned, base_path, trainable)
        assert planned.outcome is not None
        torch.testing.assert_close(planned.outcome[0], value)
        torch.testing.assert_close(planned.outcome[1].logprobs, scores.logprobs)
        assert planned.outcome[1].is_top.equal(scores.is_top)
        found = gradients_of(planned.learner)
        assert found.keys() == gradients.keys() == planned.learner.parameters.keys()
        for name, gradient in gradients.items():
            within = 1e-5 * gradient.abs().max().item()
            torch.testing.assert_close(found[name], 2 * gradient, rtol=1e-4, atol=within)


def test_what_is_no_number_in_one_job_stays_there(
    model: PreTrainedModel, batches: list[MicroBatch], base_path: Path
) -> None:
    """To the bit: the others learn nothing of it."""
    found = []
    for is_broken in (False, True):
        learners = learners_on(model, base_path)
        if is_broken:
            next(iter(learners[1].parameters.values())).data.fill_(torch.nan)
        passes = passes_of(learners, batches)
        fused.make(passes)
        found.append([(value_of(each), gradients_of(each.learner)) for each in passes])
    assert found[1][1][0].isnan()
    for (value, gradients), beside in ((found[0][job], found[1][job]) for job in (0, 2)):
        assert value.equal(beside[0])
        for name, gradient in gradients.items():
            assert gradient.isfinite().all()
            assert gradient.equal(beside[1][name])


def test_a_fused_pass_that_fails_has_changed_nothing(
    model: PreTrainedModel, batches: list[MicroBatch], base_path: Path
) -> None:
    learners = learners_on(model, base_path)
    passes = passes_of(learners, batches)

    def runs_out(logprobs: Tensor, batch: MicroBatch) -> Tensor:
        raise torch.OutOfMemoryError

    passes[2].loss = runs_out
    fused.make(passes)
    assert all(each.outcome is None for each in passes)
    assert not any(gradients_of(learner) for learner in learners)
    assert not any(learner.shareable for learner in learners)


def test_passes_are_made_together_where_it_pays_and_fits(
    model: PreTrainedModel, batches: list[MicroBatch], base_path: Path
) -> None:
    learners = learners_on(model, base_path)
    passes = passes_of(learners, batches)
    assert fused.chosen(passes) == passes
    assert fused.make_together(passes[:2]) == []
    parts = fused.make_together(passes)
    assert [each for each, _ in parts] == passes
    assert sum(part for _, part in parts) == pytest.approx(1)
    many = [passes[0], *(10 * passes[1:])]
    together = fused.chosen(many)
    sizes = [len(each.batch.input_ids) for each in together]
    assert sum(sizes) <= fused.MAX_FUSED_TOKENS < sum(sizes) + max(sizes)


@pytest.mark.parametrize(
    "change",
    [{"shared": "never"}, {"dropout": 0.1}, {"neftune_noise_alpha": 5.0}],
    ids=["never", "dropout", "neftune"],
)
def test_what_must_be_alone_is_not_small(
    model: PreTrainedModel,
    batches: list[MicroBatch],
    base_path: Path,
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A token of this base is a byte.
    monkeypatch.setattr(fused, "SMALL_PASS_TOKENS", 400)

    def is_small(**changes: Any) -> bool:
        learner = Learner(model, jobs.config(base_path, **{"shared": "auto", **changes}))
        learner.close()
        return fused.is_small(Pass(learner, batches[0], cross_entropy, 1.0))

    assert is_small()
    assert not is_small(**change)
