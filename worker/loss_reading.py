"""What a running job's loss says of its end, once: after a tenth of its steps, on rows that it had not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from grading.learning_curve import NOISE, LossPoint, loss_at
from training.messages import StepMetrics, TrainConfig

SHARE = 0.1
MIN_STEPS = 10
"""With fewer there is nothing to see."""
_NUM_POINTS = 5
_NUM_FIRST = 3
"""Steps that tell the loss that it began with: their rows differ."""
_FLAT = 0.98
_METHODS = ("supervised", "unsupervised", "classification")
"""Those whose loss is of what is written."""


@dataclass
class LossReading:
    """Of one attempt that began with the first step; of another there is none."""

    config: TrainConfig
    steps_per_epoch: int
    _losses: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)

    def see(self, metrics: StepMetrics) -> tuple[str, dict[str, Any]] | None:
        """The text and the data of an event, at the step at which it is told."""
        due = max(math.ceil(SHARE * metrics.total_steps), MIN_STEPS)
        is_due = metrics.step == due and metrics.total_steps >= 2 * due
        loss = metrics.values.get("train_loss")
        is_next = metrics.step == len(self._losses) + 1
        if self.config.method.kind not in _METHODS or metrics.step > due or not is_next:
            return None
        if loss is None or not math.isfinite(loss):
            return None
        # In a later epoch the rows are known ones.
        if metrics.step <= self.steps_per_epoch:
            self._losses.append(max(loss, 1e-4))
            self._tokens.append(metrics.num_tokens)
        return self._told(metrics) if is_due and len(self._losses) == due else None

    def _told(self, metrics: StepMetrics) -> tuple[str, dict[str, Any]]:
        first = fmean(self._losses[:_NUM_FIRST])
        groups = _groups(len(self._losses), _NUM_POINTS)
        points = [
            LossPoint(self._tokens[end - 1], fmean(self._losses[begin:end]))
            for begin, end in groups[1:]
        ]
        noise = max(_noise(self._losses, groups), NOISE)
        total_tokens = metrics.num_tokens * metrics.total_steps / metrics.step
        final = {
            name: round(value, 4)
            for name, value in loss_at(total_tokens, points, first, noise).items()
        }
        now = points[-1].loss
        text = (
            f"After {metrics.step} of {metrics.total_steps} steps the loss on rows that it had not seen went from "
            f"{first:.2f} to {now:.2f}; by the curve so far it will be {final['p10']:.2f} to {final['p90']:.2f} at the end"
        )
        if now > _FLAT * first:
            text += ". It has hardly moved: look at what is learnt of the rows, and at the learning rate"
        data = {"step": metrics.step, "first": first, "now": now, "final": final}
        return text, {"reading": data}


def _groups(num_steps: int, num_groups: int) -> list[tuple[int, int]]:
    """Of steps, each twice as long as the one before it, about."""
    ends = sorted(
        {max(round(num_steps * 2.0 ** (i - num_groups)), 1) for i in range(1, num_groups + 1)}
    )
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _noise(losses: Sequence[float], groups: Sequence[tuple[int, int]]) -> float:
    """Of a group's mean, as a share of it, by how its steps differ."""
    shares = [
        stdev(losses[begin:end]) / fmean(losses[begin:end]) / math.sqrt(end - begin)
        for begin, end in groups
        if end - begin > 1
    ]
    return max(shares, default=0.0)
