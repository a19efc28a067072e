"""What is to be learnt shall be likely."""

from __future__ import annotations

from torch import Tensor

from training.batches import MicroBatch


def cross_entropy(logprobs: Tensor, batch: MicroBatch) -> Tensor:
    """Σ weight · -log p"""
    return -(batch.weights * logprobs).sum()
