"""Supervised fine-tuning: the cross-entropy of the tokens that have a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dataset.examples import Example
from training.batches import MicroBatch, ScoredRow
from training.course import Diverged, Program, Step, Values
from training.losses.cross_entropy import cross_entropy
from training.messages import TrainConfig
from training.primitives import Learner
from training.sharing.fused import forward_backward

# Examples that validation packs together.
_VALIDATION_WINDOW = 64
_MAX_LOSS = 100.0
"""Nats for a token. Guessing costs about 11 with a large vocabulary, and no model that works gives what it shall
say a chance of e to the minus 100, let alone in the mean of a step."""


class SupervisedProgram(Program):
    """Measures `loss`, by weight, and `mean_token_accuracy`, by the number of tokens."""

    def __init__(self, config: TrainConfig, learner: Learner) -> None:
        self._config = config
        self._learner = learner

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Step:
        total_weight = sum(example.weight for example in examples)
        sums = self._zeros()
        for batch in self._batches(examples):
            check_stop()
            loss, scores = yield from forward_backward(
                self._learner, batch, cross_entropy, total_weight
            )
            sums += torch.stack([loss, scores.is_top.sum()])
        norm = self._learner.optim_step(learning_rate, self._config.max_grad_norm)
        # The only wait for the device in a step.
        loss_sum, num_right, grad_norm = torch.cat([sums, norm[None]]).tolist()
        if not (math.isfinite(loss_sum) and math.isfinite(grad_norm)):
            raise Diverged("The training loss became infinite or not a number", step)
        if loss_sum > _MAX_LOSS * total_weight:
            raise Diverged(f"The training loss exploded to {loss_sum / total_weight:.0f}", step)
        return _means(examples, total_weight, loss_sum, num_right)

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Values:
        total_weight = sum(example.weight for example in examples)
        sums = self._zeros()
        for start in range(0, len(examples), _VALIDATION_WINDOW):
            for batch in self._batches(examples[start : start + _VALIDATION_WINDOW]):
                check_stop()
                scores = self._learner.logprobs(batch)
                loss = cross_entropy(scores.logprobs, batch)
                sums += torch.stack([loss, scores.is_top.sum()])
        loss_sum, num_right = sums.tolist()
        if not math.isfinite(loss_sum):
            raise Diverged("The validation loss became infinite or not a number", step)
        return _means(examples, total_weight, loss_sum, num_right)

    def _zeros(self) -> Tensor:
        """Of losses and of right guesses, on the device and as exact as Python's own."""
        return torch.zeros(2, dtype=torch.float64, device=self._learner.device)

    def _batches(self, examples: Sequence[Example]) -> Iterator[MicroBatch]:
        return self._learner.micro_batches([[ScoredRow.of(example)] for example in examples])


def _means(
    examples: Sequence[Example], total_weight: float, loss_sum: float, num_right: float
) -> Values:
    num_scored = sum(example.num_supervised_tokens for example in examples)
    return {"loss": loss_sum / total_weight, "mean_token_accuracy": num_right / num_scored}
