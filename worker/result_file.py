"""The result file: a CSV with a line for each step, as OpenAI lays it out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Column -> the key in a metrics event's data."""
FILENAME = "step_metrics.csv"
PURPOSE = "fine-tune-results"


def render(metrics: Iterable[dict[str, Any]]) -> bytes:
    """Values with 5 decimals; a cell is empty where a step has no such value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step in metrics:
        writer.writerow(_cell(step.get(key)) for key in COLUMNS.values())
    return text.getvalue().encode()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}"
