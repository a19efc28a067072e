"""The course of a job, whatever its method: order, schedule, validation, checkpoints and reports. A generator.

It knows files and tensors only. Whoever iterates decides what becomes of the reports, and the course is
a function of its inputs: order, schedule and validation batches depend on (seed, step), never on time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from dataset.examples import Example
from dataset.tokenized import Dataset
from modeling.artifacts.artifact import ArtifactError

from . import batches
from .checkpoint import Cursor
from .messages import CheckpointSaved, Finished, StepMetrics, StopReason, TrainConfig
from .pipes import JobStopped
from .primitives import Learner
from .schedule import learning_rate

Values = dict[str, float]
"""What a method measures, by name."""


class Diverged(Exception):
    """What was trained is no model any more: its loss or its weights are out of all bounds."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} at step {step}")


class Program(Protocol):
    """What a method does with examples. Both ask `check_stop` between micro-batches, and raise Diverged."""

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Values:
        """One optimizer step. What it measures is of before that."""
        ...

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Values: ...


@dataclass
class Course:
    """One job on its way: what it was given, and how far it is."""

    job_id: str
    config: TrainConfig
    learner: Learner
    program: Program
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
        except JobStopped as stopped:
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
        trained = self.program.update(step, examples, rate, self._check_stop)
        step_time_s = time.perf_counter() - started_s
        self.cursor = Cursor(
            step=step,
            epoch=batches.epoch_of(step, num_examples, batch_size),
            num_tokens=self.cursor.num_tokens + sum(example.num_tokens for example in examples),
        )
        return StepMetrics(
            job_id=self.job_id,
            step=step,
            total_steps=self.total_steps,
            epoch=self.cursor.epoch,
            learning_rate=rate,
            num_tokens=self.cursor.num_tokens,
            step_time_s=step_time_s,
            values=_named("train", trained) | self._validate(),
        )

    def _check_stop(self) -> None:
        if (reason := self.stop_reason()) is not None:
            raise JobStopped(reason)

    def _check_cancel(self) -> None:
        """A step is reported whole, so only a cancelled one may lack its validation."""
        if self.stop_reason() == "cancel":
            raise JobStopped("cancel")

    def _validate(self) -> Values:
        values: Values = {}
        due = {"valid": self._rotating_examples(), "full_valid": self._all_examples()}
        for role, examples in due.items():
            if examples:
                found = self.program.evaluate(self.cursor.step, examples, self._check_cancel)
                values |= _named(role, found)
        return values

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

    def _is_end_of_epoch(self) -> bool:
        return self.cursor.step % self.steps_per_epoch == 0

    def _save(self, metrics: StepMetrics) -> CheckpointSaved:
        path = self.output_dir / f"step-{self.cursor.step}"
        try:
            self.learner.save(path, self.cursor, self.environment)
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


def _named(role: str, values: Values) -> Values:
    return {f"{role}_{name}": value for name, value in values.items()}
