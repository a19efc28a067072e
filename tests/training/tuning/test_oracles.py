"""Tuning of the base's own weights against transformers' model and torch's AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dataset.examples import Example
from modeling.base import Precision
from tests.training import jobs
from training.losses.cross_entropy import cross_entropy
from training.messages import Full, OutputLayers, Trainable
from training.primitives import Learner, load_base

RATES = (3e-5, 5e-5, 3e-5)


def padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """ids (B, T), labels with -100 where nothing is learnt, and the mask."""
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    labels, mask = torch.full_like(input_ids, -100), torch.zeros_like(input_ids)
    for row, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids).long()
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = ids.where(torch.from_numpy(example.weights) > 0, -100)
        mask[row, : len(ids)] = 1
    return input_ids, labels, mask


def train_peer(
    model: PreTrainedModel, parameters: list[torch.nn.Parameter], examples: Sequence[Example]
) -> list[float]:
    """The losses of the steps."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    input_ids, labels, mask = padded(examples)
    for rate in RATES:
        loss: Any = model(input_ids=input_ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def train_ours(learner: Learner, examples: Sequence[Example], tokens: int = 150) -> list[float]:
    losses = []
    for rate in RATES:
        packed = jobs.micro_batches(examples, tokens)
        total = sum(batch.weights.sum().item() for batch in packed)
        values = [learner.forward_backward(batch, cross_entropy, total)[0] for batch in packed]
        learner.optim_step(rate, 1.0)
        losses.append(sum(value.item() for value in values) / total)
    return losses


def plain_model(base_path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    return model


def of_every_kind(_: str) -> bool:
    return True


def of_the_last_block(name: str) -> bool:
    return name.startswith(("model.layers.1.", "model.norm."))


def of_the_last_block_and_head(name: str) -> bool:
    return of_the_last_block(name) or name == "lm_head.weight"


@pytest.mark.parametrize(
    ("kind", "trains"),
    [
        (Full(), of_every_kind),
        (OutputLayers(num_blocks=1), of_the_last_block),
        (OutputLayers(num_blocks=1, train_head=True), of_the_last_block_and_head),
    ],
    ids=["full", "block", "block and head"],
)
@pytest.mark.parametrize("is_tied", [True, False])
def test_three_steps_are_those_of_transformers_and_adamw(
    base_path: Path,
    tied_path: Path,
    tmp_path: Path,
    kind: Trainable,
    trains: Callable[[str], bool],
    is_tied: bool,
) -> None:
    base_path = tied_path if is_tied else base_path
    examples = jobs.examples(base_path, tmp_path, 8)
    peer = plain_model(base_path)
    if is_tied and kind == OutputLayers(num_blocks=1, train_head=True):
        peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().clone())
    expected = {name: p for name, p in peer.named_parameters() if trains(name)}
    before = {name: parameter.detach().clone() for name, parameter in expected.items()}
    peer_losses = train_peer(peer, list(expected.values()), examples)
    learner = Learner(load_base(base_path, "fp32"), jobs.config(base_path, trainable=kind))
    losses = train_ours(learner, examples)
    assert losses == pytest.approx(peer_losses, rel=1e-5)
    assert learner.parameters.keys() == expected.keys()
    for name, parameter in learner.parameters.items():
        assert not torch.equal(expected[name], before[name])
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6, msg=name)
    learner.close()


def test_small_steps_add_up_though_the_model_computes_in_bf16(
    tied_path: Path, tmp_path: Path
) -> None:
    """What trains is fp32. The same steps would leave nearly all weights of bf16 where they are."""
    examples = jobs.examples(tied_path, tmp_path, 8)
    model = load_base(tied_path, "bf16")
    learner = Learner(model, jobs.config(tied_path, trainable=Full()))
    before = {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}
    num_moved = num_moved_in_bf16 = num_all = 0
    train_ours(learner, examples)
    for name, parameter in learner.parameters.items():
        assert parameter.dtype == torch.float32
        # Words that no example has hardly get a gradient, and AdamW's steps then are nearly none.
        has_gradient = learner._optimizer.state[parameter]["exp_avg_sq"].sqrt() > 1e-8
        moved = (parameter - before[name]).abs()[has_gradient]
        assert moved.max() <= 1.1 * sum(RATES)
        num_moved += int((moved > 0).sum())
        num_moved_in_bf16 += int((parameter.bfloat16() != before[name].bfloat16()).sum())
        num_all += moved.numel()
    assert num_moved > 0.99 * num_all
    assert num_moved_in_bf16 < 0.8 * num_moved
    computed = dict(model.named_parameters())
    for name, parameter in learner.parameters.items():
        assert torch.equal(computed[name], parameter.bfloat16())
        assert computed[name].grad is None
    learner.close()


def test_parts_in_bf16_add_up_in_fp32(tied_path: Path, tmp_path: Path) -> None:
    examples = jobs.examples(tied_path, tmp_path, 8)
    exact = gradients(tied_path, "fp32", examples, 10_000)
    for tokens in (10_000, 60):
        for name, grad in gradients(tied_path, "bf16", examples, tokens).items():
            assert grad.dtype == torch.float32
            assert (grad - exact[name]).norm() < 0.05 * exact[name].norm() + 1e-6


def gradients(
    base_path: Path, precision: Precision, examples: Sequence[Example], tokens: int
) -> dict[str, Tensor]:
    model = load_base(base_path, precision)
    learner = Learner(model, jobs.config(base_path, trainable=Full()))
    for batch in jobs.micro_batches(examples, tokens):
        learner.forward_backward(batch, cross_entropy, 100.0)
    found = {name: p.grad for name, p in learner.parameters.items() if p.grad is not None}
    assert found.keys() == learner.parameters.keys()
    return found
