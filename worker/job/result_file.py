"""The result file: a CSV with a line for each step, as OpenAI lays it out, now and in the old API."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from storage.jobs.fine_tunes import RESULTS_FILENAME
from storage.jobs.jobs import JobRow
from training.messages import Table

COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}
"""Column -> the key in a metrics event's data."""
_OF_PAIRS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
PREFERENCE_COLUMNS = {
    **COLUMNS,
    "train_accuracy": "train_accuracy",
    "valid_accuracy": "valid_accuracy",
    **{name: name for name in _OF_PAIRS},
    **{f"valid_{name}": f"valid_{name}" for name in _OF_PAIRS},
}
"""Of a job that learns from preferences: right are pairs, not tokens."""
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
    "classification/accuracy": "full_valid_accuracy",
    "classification/precision": "full_valid_precision",
    "classification/recall": "full_valid_recall",
    "classification/auroc": "full_valid_auroc",
    "classification/auprc": "full_valid_auprc",
    "classification/f1.0": "full_valid_f1",
}
"""None is what nobody measures here: an empty cell."""
_OF_CLASSES = ("accuracy", "weighted_f1", "precision", "recall", "auroc", "auprc")
_CLASS_COLUMN = {name: f"classification/{name}" for name in _OF_CLASSES} | {
    "weighted_f1": "classification/weighted_f1_score"
}
_TABLES = {"classes": "classes", "confusion": "confusion_matrix"}
FILENAME = "step_metrics.csv"
PURPOSE = "fine-tune-results"


def of_job(job: JobRow, metrics: Iterable[dict[str, Any]]) -> tuple[str, bytes]:
    """The file's name and content, in the form of the API that the job came by."""
    train_config = job.train_config or {}
    if job.legacy is None:
        return FILENAME, render(metrics, train_config)
    return RESULTS_FILENAME, render_legacy(metrics, train_config)


def render(
    metrics: Iterable[dict[str, Any]], train_config: Mapping[str, Any] | None = None
) -> bytes:
    """Values with 5 decimals; a cell is empty where a step has no such value."""
    return _table(_columns(train_config or {}), metrics)


def _columns(train_config: Mapping[str, Any]) -> Mapping[str, str | None]:
    method = train_config.get("config", {}).get("method", {})
    # Versions that knew one method alone wrote its name.
    is_of_pairs = isinstance(method, dict) and method.get("kind") == "dpo"
    return PREFERENCE_COLUMNS if is_of_pairs else COLUMNS | _class_columns(train_config)


def render_legacy(metrics: Iterable[dict[str, Any]], train_config: Mapping[str, Any]) -> bytes:
    """The steps as `compiled_results.csv` had them. `train_config` is the job's, with the number of examples trained on."""
    config, num_examples = train_config["config"], train_config["num_examples"]
    return _table(
        LEGACY_COLUMNS | _class_columns(train_config),
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


def _class_columns(train_config: Mapping[str, Any]) -> dict[str, str | None]:
    """Of a job that classifies: what its validation file says at the end of each epoch, under the names of the old API.

    What those lack comes behind them: each class's rates, and which classes were taken for which, in a cell as JSON.
    """
    method = train_config.get("config", {}).get("method", {})
    if not isinstance(method, dict) or method.get("kind") != "classification":
        return {}
    names = [name for name in _OF_CLASSES if method["positive_class"] or name in _OF_CLASSES[:2]]
    columns = {_CLASS_COLUMN[name]: f"full_valid_{name}" for name in names}
    if method["positive_class"]:
        columns |= {f"classification/f{beta}": f"full_valid_f{beta:g}" for beta in method["betas"]}
    return {**columns, **{f"classification/{to}": f"full_valid_{of}" for of, to in _TABLES.items()}}


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


def _value(row: Mapping[str, Any], key: str) -> float | Table | None:
    """A step after which only the whole validation file was measured has that as its validation."""
    value: float | Table | None = row.get(key)
    return row.get(f"full_{key}") if value is None else value


def _cell(value: float | Table | None) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value) if isinstance(value, int) else f"{value:.5f}"
