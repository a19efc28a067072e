"""For how long no epoch has been better than those before it, by some metric.

A part of what a job resumes with, so a job that was killed ends at the same step as one that was not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dataset.metrics import is_lower_better

from .messages import EarlyStopping


@dataclass(frozen=True)
class Standing:
    """At the end of an epoch."""

    best: float
    """Not a number as long as nothing was measured."""
    epochs_without_gain: int = 0

    def must_stop(self, stopping: EarlyStopping) -> bool:
        return self.epochs_without_gain >= stopping.patience


def after(before: Standing | None, stopping: EarlyStopping, value: float) -> Standing:
    """With one epoch more, whose metric is `value`: not a number if it has none."""
    if before is None or math.isnan(before.best):
        return Standing(value)
    gain = before.best - value if is_lower_better(stopping.metric) else value - before.best
    return Standing(
        best=value if gain > 0 else before.best,
        epochs_without_gain=0 if gain > stopping.min_delta else before.epochs_without_gain + 1,
    )
