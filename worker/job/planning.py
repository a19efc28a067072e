"""What a job will do, from what was asked for and what its rows were found to be: nothing "auto" any more.

The worker goes by it before it trains, and `python -m worker.forecasting` for who only wants to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.labels import Labels
from dataset.tokenized import Dataset, Statistics
from dataset.validation import Role
from storage.forecasts.plan import Plan
from storage.models.architecture import Architecture
from storage.models.base_models import BaseModel
from training.messages import Method, Trainable, TrainConfig
from worker import bases
from worker.endings import Setback

from . import classes, control, resolve, room, trainables
from .resolve import Resolved

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """How the rows of a job's files are read."""

    method: Method
    max_seq_len: int
    labels: Labels | None

    def overlap(self, role: Role) -> int | None:
        return resolve.overlap_of(self.method, role, self.max_seq_len)


@dataclass(frozen=True)
class Planned:
    resolved: Resolved
    plan: Plan
    merged: Trainable | None
    """What of the base a tuned model changes that is merged into it first."""


def reading(
    asked: Json, base: BaseModel, begun: Trainable | None, decided: TrainConfig | None = None
) -> Reading:
    """`begun` is what a tuned model changes that the job goes on from; `decided` what an earlier attempt went by.

    Raises JobFailed.
    """
    asked_len = control.max_seq_len(asked["hyperparameters"], base.max_seq_len)
    kept = trainables.num_virtual_tokens(asked["tuning"], begun, base.max_seq_len)
    method = (
        decided.method if decided else resolve.method_of(asked["method"], asked["hyperparameters"])
    )
    return Reading(
        method,
        decided.max_seq_len if decided else min(asked_len, base.max_seq_len - kept),
        classes.labels_of(method, begun),
    )


def planned(
    asked: Json,
    rows: Reading,
    statistics: Mapping[Role, Statistics],
    folder: Path,
    base: BaseModel,
    base_path: Path,
    begun: Trainable | None,
) -> Planned:
    """`folder` has the tokenised files. Raises JobFailed for what is wrong with the job, and Setback."""
    training = statistics["training"]
    try:
        shape = Architecture.read(bases.read_config(base, base_path), base.family)
    except (KeyError, TypeError, ValueError) as error:
        message = f"The base model {base.id} cannot be tuned: its config.json lacks {error}"
        raise Setback(message, code="server_error") from error
    resolved = resolve.resolve(
        method=asked["method"],
        hyperparameters=asked["hyperparameters"],
        tuning=asked["tuning"],
        num_examples=training.num_examples,
        num_tokens=training.num_tokens,
        num_supervised_tokens=training.num_supervised_tokens,
        architecture=shape,
        base_model=asked["base_model"],
        base_path=str(base_path),
        max_seq_len=rows.max_seq_len,
        seed=asked["seed"],
        init_artifact=begun,
    )
    trainable = resolved.config.trainable
    merged = begun if begun and trainables.merges(begun, trainable) else None
    if rows.labels is not None:
        resolved = classes.with_labels(resolved, rows.labels)
    longest = Dataset.open(folder / "training").longest
    plan = _plan(resolved.config, shape, training, statistics.get("validation"), longest, merged)
    return Planned(resolved, plan, merged)


def _plan(
    config: TrainConfig,
    shape: Architecture,
    training: Statistics,
    validation: Statistics | None,
    longest: int,
    merged: Trainable | None,
) -> Plan:
    needed = room.needed_bytes(config.trainable, shape, merged)
    return Plan(
        base_model=config.base_model,
        method=config.method.kind,
        kind=config.trainable.kind,
        precision=config.precision,
        shape=shape,
        tuning=trainables.told(config.trainable),
        merged_bytes=needed - room.needed_bytes(config.trainable, shape),
        num_rows=training.num_rows,
        num_examples=training.num_examples,
        num_tokens=training.num_tokens,
        num_learnt_tokens=training.num_supervised_tokens,
        num_truncated=training.num_truncated,
        num_left_out=training.num_left_out + training.num_too_long,
        longest=longest,
        num_valid_examples=validation.num_examples if validation else 0,
        num_valid_tokens=validation.num_tokens if validation else 0,
        n_epochs=config.n_epochs,
        batch_size=config.batch_size,
        max_seq_len=config.max_seq_len,
        micro_batch_tokens=config.micro_batch_tokens,
        eval_interval_steps=config.eval_interval_steps,
        eval_batch_size=config.eval_batch_size,
        learning_rate=config.learning_rate,
    )
