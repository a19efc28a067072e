"""Gradient checkpointing on the tiny base: what is computed again gives the same bits, and less is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from foundation import memory as machine
from modeling import attention, recompute
from tests.training import jobs
from training import memory
from training.losses.cross_entropy import cross_entropy
from training.messages import Full, OutputLayers, Prefix
from training.primitives import Learner, load_base

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora with noise": {"dropout": 0.3, "neftune_noise_alpha": 5.0},
    "prefix": {"trainable": Prefix(num_virtual_tokens=4)},
    "full": {"trainable": Full()},
    "output layers": {"trainable": OutputLayers(num_blocks=1, train_head=True)},
}


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


def gradients(
    model: PreTrainedModel, base_path: Path, folder: Path, *, recomputes: bool, **changes: Any
) -> tuple[dict[str, Tensor], Tensor]:
    learner = Learner(model, jobs.config(base_path, **changes))
    try:
        learner._recomputes = recomputes
        total = torch.zeros(())
        examples = jobs.examples(base_path, folder, 9)
        # Packed rows of many lengths that begin alike, in several passes.
        for batch in jobs.micro_batches(examples, 200):
            loss, _ = learner.forward_backward(batch, cross_entropy, 7.0)
            total += loss
        found = {
            name: p.grad.clone() for name, p in learner.parameters.items() if p.grad is not None
        }
        return found, total
    finally:
        learner.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_written_tokens", [512, 30])
def test_gradients_are_the_same_to_the_last_bit(
    model: PreTrainedModel,
    base_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    max_written_tokens: int,
) -> None:
    # Longer rows go through torch's own attention.
    monkeypatch.setattr(attention, "MAX_WRITTEN_TOKENS", max_written_tokens)
    attention._groups.cache_clear()
    kept, kept_loss = gradients(model, base_path, tmp_path, recomputes=False, **KINDS[kind])
    again, loss = gradients(model, base_path, tmp_path, recomputes=True, **KINDS[kind])
    assert loss == kept_loss
    assert len(kept) >= 2
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.equal(gradient, again[name]), name
        assert gradient.abs().sum() > 0 or "lora_A" in name
    # The blocks are as they were.
    assert all("forward" not in vars(block) for block in recompute._blocks(model))


def test_less_is_kept_and_a_probe_tells_of_longer_rows(
    model: PreTrainedModel, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(model, jobs.config(base_path))
    try:
        examples = jobs.examples(base_path, tmp_path, 18)
        (batch,) = jobs.micro_batches(examples, 10_000)
        kept = recompute.measure(model, lambda: learner._score(batch))
        with recompute.recomputed(model):
            less = recompute.measure(model, lambda: learner._score(batch))
        assert less.in_blocks < kept.in_blocks / 4
        longest = max(len(example.input_ids) for example in examples)
        need = memory.need(
            model,
            learner._num_parameters,
            recompute.measure(model, lambda: learner._score(memory.probe(256))),
            len(batch.input_ids),
            longest,
        )
        assert need is not None
        guessed = need.kept_per_token * need.num_tokens / 1.25
        assert 0.6 < guessed / sum(kept) < 1.6
        assert need.recomputed_per_token < need.kept_per_token
        assert need.state_bytes == 12 * learner._num_parameters
        # A bound that is looked at first lies above what is measured, and not far above.
        monkeypatch.setattr(machine, "available_bytes", lambda: need.kept_bytes / 0.4)
        assert not memory.is_ample(model, learner._num_parameters, need.num_tokens)
        monkeypatch.setattr(machine, "available_bytes", lambda: need.kept_bytes / 0.4 * 4)
        assert memory.is_ample(model, learner._num_parameters, need.num_tokens)
    finally:
        learner.close()
