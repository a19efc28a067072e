"""What users read of the trainer's reports: event texts, metrics, and when the job may be done."""

from __future__ import annotations

import math
from typing import Any

from training.messages import StepMetrics

Json = dict[str, Any]

_OPTIONAL = (
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
_OF_THE_RUN = ("total_steps", "num_tokens")
_SMOOTHING = 0.1


def text(metrics: StepMetrics) -> str:
    """`Step 59/200: training loss=1.40, validation loss=1.46`."""
    parts = [f"Step {metrics.step}/{metrics.total_steps}: training loss={metrics.train_loss:.2f}"]
    if metrics.valid_loss is not None:
        parts.append(f"validation loss={metrics.valid_loss:.2f}")
    if metrics.full_valid_loss is not None:
        parts.append(f"full validation loss={metrics.full_valid_loss:.2f}")
    return ", ".join(parts)


def data(metrics: StepMetrics) -> Json:
    """A metrics event's data: only what a replay of the step gives again."""
    return {
        **_values(metrics),
        "total_steps": metrics.total_steps,
        "num_tokens": metrics.num_tokens,
    }


def checkpoint_metrics(data: Json, method: str) -> Json:
    """A checkpoint's metrics, from the data of its step's event."""
    values = {key: value for key, value in data.items() if key not in _OF_THE_RUN}
    return {**values, "type": method}


def _values(metrics: StepMetrics) -> Json:
    values: Json = {
        "step": metrics.step,
        "train_loss": _finite(metrics.train_loss),
        "train_mean_token_accuracy": _finite(metrics.train_mean_token_accuracy),
    }
    for name in _OPTIONAL:
        value = getattr(metrics, name)
        if value is not None:
            values[name] = _finite(value)
    return values


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


class Pace:
    """How long the steps take, the recent ones counting most."""

    def __init__(self) -> None:
        self._step_time_s: float | None = None

    def remaining_s(self, metrics: StepMetrics) -> float:
        """Until the last step, going by this step and those before it."""
        taken = metrics.step_time_s
        before = taken if self._step_time_s is None else self._step_time_s
        self._step_time_s = before + _SMOOTHING * (taken - before)
        return self._step_time_s * (metrics.total_steps - metrics.step)
