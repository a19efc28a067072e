"""What users read of the trainer's reports: event texts, metrics, and when the job may be done."""

from __future__ import annotations

import math
from typing import Any

from training.messages import StepMetrics

Json = dict[str, Any]

_IN_TEXT = {
    "train_loss": "training loss",
    "train_perplexity": "training perplexity",
    "train_accuracy": "training accuracy",
    "valid_loss": "validation loss",
    "valid_perplexity": "validation perplexity",
    "valid_accuracy": "validation accuracy",
    "valid_bits_per_byte": "validation bits per byte",
    "full_valid_loss": "full validation loss",
    "full_valid_perplexity": "full validation perplexity",
    "full_valid_accuracy": "full validation accuracy",
    "full_valid_bits_per_byte": "full validation bits per byte",
}
"""The values that an event's text tells, and how it calls them."""
_OF_THE_RUN = ("total_steps", "num_tokens")
_SMOOTHING = 0.1
MEASURED_STEPS = 10
"""From so many on they say themselves how long the others will take."""


def text(metrics: StepMetrics) -> str:
    """`Step 59/200: training loss=1.40, validation loss=1.46`."""
    values = metrics.values
    told = [f"{word}={values[name]:.2f}" for name, word in _IN_TEXT.items() if name in values]
    return f"Step {metrics.step}/{metrics.total_steps}: {', '.join(told)}"


def data(metrics: StepMetrics) -> Json:
    """A metrics event's data: only what a replay of the step gives again."""
    return {
        "step": metrics.step,
        **{name: _finite(value) for name, value in metrics.values.items()},
        **metrics.tables,
        "total_steps": metrics.total_steps,
        "num_tokens": metrics.num_tokens,
    }


def checkpoint_metrics(data: Json, method: str) -> Json:
    """A checkpoint's metrics, from the data of its step's event."""
    values = {key: value for key, value in data.items() if key not in _OF_THE_RUN}
    return {**values, "type": method}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


class Pace:
    """How long the steps take, the recent ones counting most; of the first ones the job's forecast says more."""

    def __init__(self, forecast_s: float | None = None) -> None:
        """`forecast_s` is what all steps were said to take together."""
        self._forecast_s = forecast_s
        self._num_measured = 0
        self._step_time_s: float | None = None

    def remaining_s(self, metrics: StepMetrics) -> float:
        """Until the last step, going by this step and those before it."""
        taken = metrics.step_time_s
        before = taken if self._step_time_s is None else self._step_time_s
        self._step_time_s = before + _SMOOTHING * (taken - before)
        self._num_measured += 1
        num_left = metrics.total_steps - metrics.step
        if self._forecast_s is not None and self._num_measured < MEASURED_STEPS:
            return self._forecast_s * num_left / metrics.total_steps
        return self._step_time_s * num_left
