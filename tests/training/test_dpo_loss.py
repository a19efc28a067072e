"""The losses of preferences as numbers by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.batches import MicroBatch, ScoredRow, micro_batches
from training.losses.dpo import PreferenceLoss
from training.messages import Dpo


def hand_batch(*num_answer_tokens: int) -> MicroBatch:
    """One pair with a prompt of a token."""
    ids = [np.arange(count + 1, dtype=np.int32) for count in num_answer_tokens]
    rows = [ScoredRow(each, each > 0, np.ones(len(each), np.float32)) for each in ids]
    (batch,) = micro_batches([rows], 100)
    return batch


@pytest.mark.parametrize(
    ("method", "reference", "expected"),
    [
        # -log sigmoid(.1 ((-2 - -3) - (-4 - -4.5))) = -log sigmoid(.05)
        (Dpo(), [-3, -4.5], 0.6684597),
        (Dpo(beta=2), [-3, -4.5], 0.3132617),
        # (1 / 2 - .5 / 4 - 1 / .2)^2 and, at the start, (1 / .2)^2
        (Dpo(loss_type="ipo"), [-3, -4.5], 21.390625),
        (Dpo(loss_type="ipo"), [-2, -4], 25.0),
        (Dpo(), [-2, -4], math.log(2)),
        (Dpo(label_smoothing=0.25), [-2, -4], math.log(2)),
        (Dpo(sft_weight=0.1), [-2, -4], math.log(2) + 0.1),
        # Both answers have a mean of -1, so what is left is the margin, and log 2 beside the better answer's loss.
        (Dpo(loss_type="simpo", beta=2, gamma=1.5), [0, 0], math.log(1 + math.exp(1.5))),
        (Dpo(loss_type="orpo", beta=0.1), [0, 0], 1 + 0.1 * math.log(2)),
    ],
)
def test_losses_of_a_pair_by_hand(method: Dpo, reference: list[float], expected: float) -> None:
    batch = hand_batch(2, 4)
    logprobs = torch.tensor([-0.5, -1.5, -1, -1, -1, -1])
    before = torch.tensor([reference]) if method.has_reference else None
    loss = PreferenceLoss(method, before)(logprobs, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_an_answer_out_of_all_bounds_has_a_finite_loss_and_gradient() -> None:
    logprobs = torch.tensor([-5e4, -1.0], requires_grad=True)
    loss = PreferenceLoss(Dpo(beta=2), torch.zeros(1, 2))(logprobs, hand_batch(1, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(2 * (5e4 - 1))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-2, 2]


@pytest.mark.parametrize("logprob", [0.0, -1e-9, -5e4])
def test_odds_that_cannot_be_told_from_certain_ones_are_finite(logprob: float) -> None:
    logprobs = torch.tensor([logprob, -1.0], requires_grad=True)
    loss = PreferenceLoss(Dpo(loss_type="orpo"), None)(logprobs, hand_batch(1, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()
