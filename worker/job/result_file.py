"""The result file: a CSV with a line for each step, as OpenAI lays it out, now and in the old API."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from storage.jobs.fine_tunes import RESULTS_FILENAME
from storage.jobs.jobs import JobRow

COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Column -> the key in a metrics event's data."""
LEGACY_COLUMNS = {
    "step": "step",
    "elapsed_tokens": "num_tokens",
    "elapsed_examples": "num_examples",
    "training_loss": "train_loss",
    "training_sequence_accuracy": None,
    "training_token_accuracy": "train_mean_token_accuracy",
    "validation_loss": "valid_loss",
    "validation_sequence_accuracy": None,
    "validation_token_accuracy": "valid_mean_token_accuracy",
    "classification/accuracy": None,
    "classification/precision": None,
    "classification/recall": None,
    "classification/auroc": None,
    "classification/auprc": None,
    "classification/f1.0": None,
}
"""None is what nobody measures here: an empty cell."""
FILENAME = "step_metrics.csv"
PURPOSE = "fine-tune-results"


def of_job(job: JobRow, metrics: Iterable[dict[str, Any]]) -> tuple[str, bytes]:
    """The file's name and content, in the form of the API that the job came by."""
    if job.legacy is None:
        return FILENAME, render(metrics)
    return RESULTS_FILENAME, render_legacy(metrics, job.train_config or {})


def render(metrics: Iterable[dict[str, Any]]) -> bytes:
    """Values with 5 decimals; a cell is empty where a step has no such value."""
    return _table(COLUMNS, metrics)


def render_legacy(metrics: Iterable[dict[str, Any]], train_config: Mapping[str, Any]) -> bytes:
    """The steps as `compiled_results.csv` had them. `train_config` is the job's, with the number of examples trained on."""
    config, num_examples = train_config["config"], train_config["num_examples"]
    return _table(
        LEGACY_COLUMNS,
        (
            {
                **step,
                "num_examples": _elapsed_examples(
                    step["step"],
                    steps_per_epoch=step["total_steps"] // config["n_epochs"],
                    batch_size=config["batch_size"],
                    num_examples=num_examples,
                ),
            }
            for step in metrics
        ),
    )


def _elapsed_examples(
    step: int, *, steps_per_epoch: int, batch_size: int, num_examples: int
) -> int:
    """Repeats count; the last batch of an epoch may be smaller than the others."""
    epochs, steps = divmod(step, steps_per_epoch)
    return epochs * num_examples + min(steps * batch_size, num_examples)


def _table(columns: Mapping[str, str | None], rows: Iterable[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(_cell(_value(row, key) if key else None) for key in columns.values())
    return text.getvalue().encode()


def _value(row: Mapping[str, Any], key: str) -> float | None:
    """A step after which only the whole validation file was measured has that as its validation."""
    value: float | None = row.get(key)
    return row.get(f"full_{key}") if value is None else value


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}"
