"""Of two answers to one prompt the better one shall become likelier than it was, and the other one less likely.

What counts is the sum over an answer's tokens, beside what it was for the model that training began with. Rows come in
pairs, the better answer first. Dimensions: P pairs of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.batches import MicroBatch
from training.messages import Dpo


class Pairs(NamedTuple):
    """How likely the answers are. All (P, 2), the better one first."""

    logprobs: Tensor
    """Summed over an answer's tokens."""
    gains: Tensor
    """Beside the reference."""
    num_tokens: Tensor


def sums(logprobs: Tensor, batch: MicroBatch) -> Tensor:
    """(P, 2), each row's sum: one row after the other, so that a device cannot change their order."""
    return torch.stack([row.sum() for row in batch.of_rows(logprobs)]).view(-1, 2)


@dataclass(frozen=True)
class PreferenceLoss:
    """DPO (arXiv 2305.18290) or IPO (arXiv 2310.12036), for a batch and its reference."""

    method: Dpo
    reference: Tensor  # (P, 2): `sums` of the model that training began with

    def pairs(self, logprobs: Tensor, batch: MicroBatch) -> Pairs:
        found = sums(logprobs, batch)
        num_tokens = torch.tensor(batch.num_scored, device=found.device, dtype=found.dtype)
        return Pairs(found, found - self.reference, num_tokens.view(-1, 2))

    def __call__(self, logprobs: Tensor, batch: MicroBatch) -> Tensor:
        """Σ over pairs."""
        pairs = self.pairs(logprobs, batch)
        loss = self._of_preferences(pairs)
        if self.method.sft_weight:
            better = pairs.logprobs[:, 0] / pairs.num_tokens[:, 0]
            loss = loss - self.method.sft_weight * better
        return loss.sum()

    def _of_preferences(self, pairs: Pairs) -> Tensor:
        """(P,)"""
        beta, smoothing = self.method.beta, self.method.label_smoothing
        if self.method.loss_type == "ipo":
            # By token, as TRL has it: long answers would otherwise be asked for no more than short ones.
            better, worse = (pairs.gains / pairs.num_tokens).unbind(1)
            return (better - worse - 1 / (2 * beta)) ** 2
        better, worse = pairs.gains.unbind(1)
        margin = beta * (better - worse)
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
