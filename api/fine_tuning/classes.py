"""What may be asked of a job that classifies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from dataset.labels import MAX_LABELS

from .numbers import auto_or, is_number

MIN_CLASS_WEIGHT, MAX_CLASS_WEIGHT = 0.001, 1000.0
"""What hardly counts is still a number to the trainer, which has 32 bits for it."""
MAX_BETAS = 10
MAX_BETA = 100.0
_MAX_LABEL_CHARS = 1000


def _are_class_weights(value: Any) -> bool:
    if not isinstance(value, dict):
        return bool(value == "balanced")
    weights = value.values()
    are_within = all(
        is_number(weight) and MIN_CLASS_WEIGHT <= weight <= MAX_CLASS_WEIGHT for weight in weights
    )
    return 0 < len(value) <= MAX_LABELS and are_within and all(map(_is_label, value))


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_LABEL_CHARS and "\0" not in value


def _are_betas(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_BETAS:
        return False
    return all(is_number(beta) and 0 < beta <= MAX_BETA for beta in value)


ClassWeights = Annotated[
    str | dict[str, float],
    auto_or(
        f"'balanced' or an object of a weight from {MIN_CLASS_WEIGHT:g} to {MAX_CLASS_WEIGHT:g} for each label",
        _are_class_weights,
    ),
]
PositiveClass = Annotated[str, auto_or("a label", _is_label)]
Betas = Annotated[
    Literal["auto"] | list[float],
    auto_or(f"an array of 1 to {MAX_BETAS} numbers above 0, {MAX_BETA:g} at most", _are_betas),
]
