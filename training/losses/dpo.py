"""Of two answers to one prompt the better one shall become likelier than it was, and the other one less likely.

What counts is the sum over an answer's tokens, beside what it was for the model that training began with; or their mean
alone, for the losses that have no such reference. Rows come in pairs, the better answer first. Dimensions: P pairs of a
batch.
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
    num_tokens: Tensor
    merits: Tensor
    """By which they are compared: what they have gained beside the reference, or without one the mean of a token."""


def sums(logprobs: Tensor, batch: MicroBatch) -> Tensor:
    """(P, 2), each row's sum: one row after the other, so that a device cannot change their order."""
    return torch.stack([row.sum() for row in batch.of_rows(logprobs)]).view(-1, 2)


@dataclass(frozen=True)
class PreferenceLoss:
    """Of a batch: DPO (arXiv 2305.18290) or IPO (arXiv 2310.12036), and without a reference SimPO (arXiv 2405.14734) or
    ORPO (arXiv 2403.07691)."""

    method: Dpo
    reference: Tensor | None  # (P, 2): `sums` of the model that training began with

    def pairs(self, logprobs: Tensor, batch: MicroBatch) -> Pairs:
        found = sums(logprobs, batch)
        num_scored = torch.tensor(batch.num_scored, device=found.device, dtype=found.dtype)
        num_tokens = num_scored.view(-1, 2)
        merits = found / num_tokens if self.reference is None else found - self.reference
        return Pairs(found, num_tokens, merits)

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
        better, worse = pairs.merits.unbind(1)
        match self.method.loss_type:
            case "dpo":
                margin = beta * (better - worse)
                return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)
            case "ipo":
                # By token, as TRL has it: long answers would otherwise be asked for no more than short ones.
                better, worse = (pairs.merits / pairs.num_tokens).unbind(1)
                return (better - worse - 1 / (2 * beta)) ** 2
            case "simpo":
                return -logsigmoid(beta * (better - worse) - self.method.gamma)
            case "orpo":
                return -better - beta * logsigmoid(_log_odds(better) - _log_odds(worse))


def _log_odds(logprobs: Tensor) -> Tensor:
    """log(p / (1 - p)); of what is all but certain as large as fp32 can tell."""
    below_one = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return below_one - torch.log(-torch.expm1(below_one))
