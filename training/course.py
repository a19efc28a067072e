"""Supervised fine-tuning as a generator of reports: the program that drives the engine.

It knows files and tensors only. Whoever iterates decides what becomes of the reports, and the run is
a function of its inputs: order, schedule and validation batches depend on (seed, step), never on time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dataset.examples import Example
from dataset.tokenized import Dataset
from modeling.artifacts.artifact import ArtifactError

from . import batches, checkpoint
from .checkpoint import Cursor
from .messages import CheckpointSaved, Finished, StepMetrics, TrainConfig
from .primitives import Engine
from .schedule import learning_rate

StopReason = Literal["cancel", "checkpoint"]
# Examples that validation packs together.
_VALIDATION_WINDOW = 64


class Stopped(Exception):
    """Raised inside a run that was told to stop."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Diverged(Exception):
    """What was trained is no model any more: its loss or its weights are out of all bounds."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} at step {step}")


@dataclass
class Run:
    """One job on its way: what it was given, and how far it is."""

    job_id: str
    config: TrainConfig
    engine: Engine
    training: Dataset
    validation: Dataset | None
    output_dir: Path
    environment: dict[str, str]
    stop_reason: Callable[[], StopReason | None]
    """Asked between micro-batches."""
    cursor: Cursor

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(len(self.training.examples), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        return self.config.n_epochs * self.steps_per_epoch

    def reports(self) -> Iterator[StepMetrics | CheckpointSaved | Finished]:
        """Train from the cursor to the end. Raises Diverged."""
        metrics: StepMetrics | None = None
        saved_at_s, saved_step = time.monotonic(), self.cursor.step
        try:
            while self.cursor.step < self.total_steps:
                metrics = self._step()
                yield metrics
                is_due = time.monotonic() - saved_at_s >= self.config.checkpoint_interval_s
                if is_due or self._is_end_of_epoch():
                    yield self._save(metrics)
                    saved_at_s, saved_step = time.monotonic(), self.cursor.step
        except Stopped as stopped:
            if stopped.reason == "checkpoint" and metrics and self.cursor.step > saved_step:
                yield self._save(metrics)
            yield self._finished("stopped")
        else:
            yield self._finished("succeeded")

    def _step(self) -> StepMetrics:
        """One optimizer step and the validation that is due after it; moves the cursor."""
        started_s = time.perf_counter()
        step = self.cursor.step + 1
        num_examples, batch_size = len(self.training.examples), self.config.batch_size
        indices = batches.examples_of_step(step, num_examples, batch_size, self.config.seed)
        examples = [self.training.examples[index] for index in indices]
        rate = learning_rate(
            step,
            peak=self.config.learning_rate,
            warmup_steps=self.config.warmup_steps,
            total_steps=self.total_steps,
        )
        loss, accuracy = self._update(step, examples, rate)
        step_time_s = time.perf_counter() - started_s
        self.cursor = Cursor(
            step=step,
            epoch=batches.epoch_of(step, num_examples, batch_size),
            num_tokens=self.cursor.num_tokens + sum(example.num_tokens for example in examples),
        )
        values = {"train_loss": loss, "train_mean_token_accuracy": accuracy}
        due = {"valid": self._rotating_examples(), "full_valid": self._all_examples()}
        for role, held_out in due.items():
            if held_out:
                loss, accuracy = self._evaluate(held_out)
                values |= {f"{role}_loss": loss, f"{role}_mean_token_accuracy": accuracy}
        return StepMetrics(
            job_id=self.job_id,
            step=step,
            total_steps=self.total_steps,
            epoch=self.cursor.epoch,
            learning_rate=rate,
            num_tokens=self.cursor.num_tokens,
            step_time_s=step_time_s,
            values=values,
        )

    def _update(self, step: int, examples: Sequence[Example], rate: float) -> tuple[float, float]:
        """Forward, backward, optimizer step. Returns loss and accuracy before the update."""
        total_weight = sum(example.weight for example in examples)
        loss, correct = 0.0, 0.0
        self.engine.zero_grad()
        for batch in batches.micro_batches(examples, self.config.micro_batch_tokens):
            if (reason := self.stop_reason()) is not None:
                raise Stopped(reason)
            batch_loss, batch_correct = self.engine.forward_backward(batch, total_weight)
            loss += batch_loss
            correct += batch_correct
        grad_norm = self.engine.clip_grad_norm(self.config.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise Diverged("The training loss became infinite or not a number", step)
        self.engine.optim_step(rate)
        return loss / total_weight, correct / total_weight

    def _rotating_examples(self) -> Sequence[Example]:
        """The validation examples that are due after this step, mostly none.

        They are the next eval_batch_size ones of an order that goes round; the step says which.
        """
        number, offset = divmod(self.cursor.step, self.config.eval_interval_steps)
        if self.validation is None or offset:
            return []
        examples = self.validation.examples
        order = batches.permutation(len(examples), self.config.seed, epoch=0)
        size = min(self.config.eval_batch_size, len(order))
        first = (number - 1) * size
        return [examples[int(order[i % len(order)])] for i in range(first, first + size)]

    def _all_examples(self) -> Sequence[Example]:
        """All validation examples at the end of an epoch, else none."""
        if self.validation is None or not self._is_end_of_epoch():
            return []
        return self.validation.examples

    def _evaluate(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Mean loss and accuracy over the examples' supervised tokens."""
        total_weight = sum(example.weight for example in examples)
        loss, correct = 0.0, 0.0
        for start in range(0, len(examples), _VALIDATION_WINDOW):
            window = examples[start : start + _VALIDATION_WINDOW]
            for batch in batches.micro_batches(window, self.config.micro_batch_tokens):
                # A step is reported whole, so only a cancelled one may lack its validation.
                if self.stop_reason() == "cancel":
                    raise Stopped("cancel")
                batch_loss, batch_correct = self.engine.forward(batch)
                loss += batch_loss
                correct += batch_correct
        if not math.isfinite(loss):
            raise Diverged("The validation loss became infinite or not a number", self.cursor.step)
        return loss / total_weight, correct / total_weight

    def _is_end_of_epoch(self) -> bool:
        return self.cursor.step % self.steps_per_epoch == 0

    def _save(self, metrics: StepMetrics) -> CheckpointSaved:
        path = self.output_dir / f"step-{self.cursor.step}"
        try:
            checkpoint.save(
                path,
                cursor=self.cursor,
                config=self.config,
                environment=self.environment,
                artifact=self.engine.artifact(),
                moments=self.engine.moments(),
            )
        except ArtifactError as error:
            raise Diverged(f"The weights are of no use ({error})", self.cursor.step) from error
        return CheckpointSaved(
            job_id=self.job_id,
            step=self.cursor.step,
            epoch=self.cursor.epoch,
            path=str(path),
            end_of_epoch=self._is_end_of_epoch(),
            is_last=self.cursor.step == self.total_steps,
            metrics=metrics,
        )

    def _finished(self, outcome: Literal["succeeded", "stopped"]) -> Finished:
        return Finished(
            job_id=self.job_id,
            outcome=outcome,
            step=self.cursor.step,
            trained_tokens=self.cursor.num_tokens,
        )
