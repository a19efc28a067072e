"""The course of a job, whatever its method: order, schedule, validation, checkpoints and reports. A generator.

It knows files and tensors only. Whoever iterates decides what becomes of the reports, and the course is
a function of its inputs: order, schedule and validation batches depend on (seed, step), never on time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from torch import Tensor

from dataset.examples import Example
from dataset.tokenized import Dataset
from foundation.crash_points import crash_point
from modeling.artifacts.artifact import ArtifactError

from . import batches, memory, standing
from .checkpoint import CheckpointError, Cursor
from .messages import (
    Alert,
    CheckpointSaved,
    Finished,
    Heartbeat,
    StepMetrics,
    StopReason,
    Table,
    TrainConfig,
)
from .pipes import JobStopped
from .primitives import Learner
from .schedule import learning_rate
from .sharing.fused import Pass

log = logging.getLogger(__name__)

MAX_SAVING_SHARE = 0.05
"""Of the time that passes, what writing checkpoints between epochs may take."""

Values = dict[str, float]
"""What a method measures, by name."""
Measured = Mapping[str, float | Table]
"""Likewise, where some of it may be no single number."""
Step = Generator[Pass, None, Values]
"""The passes of an optimizer step before they are made, and what it measures."""


V = TypeVar("V")
T = TypeVar("T")


class Diverged(Exception):
    """What was trained is no model any more: its loss or its weights are out of all bounds."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} at step {step}")


class Program(Protocol):
    """What a method does with examples. All of it asks `check_stop` between micro-batches, and raises Diverged."""

    def prepare(
        self, training: Dataset, validation: Dataset | None, check_stop: Callable[[], None]
    ) -> Iterator[None]:
        """What must be known before the first step, in pieces: behind each of them it may be saved.

        After a resume as well, with what `load_state` was given. Raises CheckpointError for a state of other files.
        """
        del training, validation, check_stop
        return iter(())

    def state(self) -> dict[str, Tensor]:
        """What the program must not lose: a checkpoint keeps it."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave. Raises CheckpointError."""
        if state:
            raise CheckpointError("it has the state of another method")

    def alerts(self) -> Mapping[str, str]:
        """What the job's owner should look at by now, by what it is about."""
        return {}

    def update(
        self,
        step: int,
        examples: Sequence[Example],
        learning_rate: float,
        check_stop: Callable[[], None],
    ) -> Step:
        """One optimizer step. What it measures is of before that."""
        ...

    def evaluate(
        self, step: int, examples: Sequence[Example], check_stop: Callable[[], None]
    ) -> Measured: ...


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
    _num_early_saves: int = 0
    _alerted: set[str] = field(default_factory=set)
    _must_save: bool = False
    """From here on steps are computed in other parts, which those that are made anew must be too."""

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(len(self.training.examples), self.config.batch_size)

    @property
    def total_steps(self) -> int:
        return self.config.n_epochs * self.steps_per_epoch

    def reports(
        self,
    ) -> Iterator[Pass | StepMetrics | CheckpointSaved | Alert | Heartbeat | Finished]:
        """Train from the cursor to the end. Raises Diverged, and CheckpointError for a program's state.

        Among the reports are the passes that are about to be made: whoever iterates may make them.
        """
        metrics: StepMetrics | None = None
        saved_at_s, is_saved = time.monotonic(), True
        interval_s = self.config.checkpoint_interval_s
        try:
            for done in self._progress():
                if isinstance(done, Pass):
                    yield done
                    continue
                metrics, is_saved = done, False
                # Behind a piece of what comes before there is nothing to tell, but others may have a turn.
                yield metrics or Heartbeat()
                if self._must_save:
                    yield self._memory_alert()
                yield from self._alerts()
                due_at_s = time.monotonic()
                is_due = due_at_s - saved_at_s >= interval_s or self._must_save
                if is_due or self._is_end_of_epoch():
                    self._must_save = False
                    saved = self._save(metrics)
                    interval_s = self._interval_s(time.monotonic() - due_at_s)
                    yield saved
                    saved_at_s, is_saved = time.monotonic(), True
        except JobStopped as stopped:
            if stopped.reason == "checkpoint" and not is_saved:
                yield self._save(metrics)
            yield self._finished("stopped")
        else:
            yield self._finished("succeeded")

    def _progress(self) -> Iterator[Pass | StepMetrics | None]:
        """What is worth a checkpoint: pieces of what comes before the first step, then steps. And the steps' passes."""
        for _ in self.program.prepare(self.training, self.validation, self._check_stop):
            yield None
        while not self._is_over():
            yield (yield from self._step())

    def _alerts(self) -> Iterator[Alert]:
        if self.learner.has_shared and "shared" not in self._alerted:
            self._alerted.add("shared")
            text = (
                f"From step {self.cursor.step} on, steps were computed together with those of other small jobs where that is "
                "faster; it changes last digits. With luthier.shared 'never' a job repeats to the bit"
            )
            yield Alert(
                job_id=self.job_id, step=self.cursor.step, key="shared", text=text, level="info"
            )
        for key, text in self.program.alerts().items():
            if key not in self._alerted:
                self._alerted.add(key)
                yield Alert(job_id=self.job_id, step=self.cursor.step, key=key, text=text)

    def _memory_alert(self) -> Alert:
        text = (
            f"Memory ran out at step {self.cursor.step}, which was computed once more in parts of "
            f"{self.learner.micro_batch_tokens} tokens, as those that follow will be. It takes longer and changes nothing "
            "else but last digits"
        )
        return Alert(job_id=self.job_id, step=self.cursor.step, key="memory", text=text)

    def _step(self) -> Generator[Pass, None, StepMetrics]:
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
            schedule=self.config.lr_schedule,
        )
        trained = yield from self._in_memory(
            lambda: self.program.update(step, examples, rate, self._check_stop)
        )
        step_time_s = time.perf_counter() - started_s
        crash_point("after_update")
        self.cursor = Cursor(
            step=step,
            epoch=batches.epoch_of(step, num_examples, batch_size),
            num_tokens=self.cursor.num_tokens + sum(example.num_tokens for example in examples),
            standing=self.cursor.standing,
            micro_batch_tokens=self.cursor.micro_batch_tokens,
        )
        measured, tables = yield from self._validate()
        values = _named("train", trained) | measured
        self._take_stock(values)
        return StepMetrics(
            job_id=self.job_id,
            step=step,
            total_steps=self.total_steps,
            epoch=self.cursor.epoch,
            learning_rate=rate,
            num_tokens=self.cursor.num_tokens,
            step_time_s=step_time_s,
            values=values,
            tables=tables,
        )

    def _check_stop(self) -> None:
        if (reason := self.stop_reason()) is not None:
            raise JobStopped(reason)

    def _check_cancel(self) -> None:
        """A step is reported whole, so only a cancelled one may lack its validation."""
        if self.stop_reason() == "cancel":
            raise JobStopped("cancel")

    def _validate(self) -> Generator[Pass, None, tuple[Values, dict[str, Table]]]:
        values: Values = {}
        tables: dict[str, Table] = {}
        due = {"valid": self._rotating_examples(), "full_valid": self._all_examples()}
        for role, examples in due.items():
            if examples:
                found = yield from self._in_memory(partial(self._evaluate, examples))
                for name, value in _named(role, found).items():
                    if not isinstance(value, dict):
                        values[name] = value
                    elif role == "full_valid":
                        # Of a few examples that go round a table would be all zeros.
                        tables[name] = value
        return values, tables

    def _evaluate(self, examples: Sequence[Example]) -> Generator[Pass, None, Measured]:
        """Without a pass that others could make."""
        yield from ()
        return self.program.evaluate(self.cursor.step, examples, self._check_cancel)

    def _in_memory(self, work: Callable[[], Generator[Pass, None, T]]) -> Generator[Pass, None, T]:
        """Once more, in smaller parts, if memory runs out the first time. Raises OutOfMemory."""
        try:
            return (yield from work())
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            if not self.learner.make_room():
                needed = self.learner.memory_need(self.training.longest)
                raise memory.OutOfMemory(memory.told(needed)) from error
        # Not within `except`, where the error holds what was computed.
        size = self.learner.micro_batch_tokens
        log.warning("%s: out of memory, %d tokens at a time from now on", self.job_id, size)
        self.cursor = replace(self.cursor, micro_batch_tokens=size)
        self._must_save = True
        return (yield from self._in_memory(work))

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

    def _is_over(self) -> bool:
        return self.cursor.step == self.total_steps or self._stops_early()

    def _stops_early(self) -> bool:
        stopping, reached = self.config.early_stopping, self.cursor.standing
        return (
            stopping is not None
            and reached is not None
            and reached.must_stop(stopping)
            and self.cursor.step < self.total_steps
        )

    def _take_stock(self, values: Values) -> None:
        """At the end of an epoch, of how good it was."""
        stopping = self.config.early_stopping
        if stopping is not None and self._is_end_of_epoch():
            value = values.get(stopping.metric, math.nan)
            reached = standing.after(self.cursor.standing, stopping, value)
            self.cursor = replace(self.cursor, standing=reached)

    def _is_end_of_epoch(self) -> bool:
        return self.cursor.step > 0 and self.cursor.step % self.steps_per_epoch == 0

    def _interval_s(self, saving_s: float) -> float:
        """Between two checkpoints, where writing the last one took so long."""
        asked_s = self.config.checkpoint_interval_s
        return max(asked_s, saving_s / MAX_SAVING_SHARE) if asked_s else 0

    def _save(self, metrics: StepMetrics | None) -> CheckpointSaved:
        name = f"step-{self.cursor.step}"
        if metrics is None:
            # There are several of step 0, and the one before may still be read.
            self._num_early_saves += 1
            name += f"-{self._num_early_saves}"
        path = self.output_dir / name
        try:
            self.learner.save(path, self.cursor, self.environment, self.program.state())
        except ArtifactError as error:
            raise Diverged(f"The weights are of no use ({error})", self.cursor.step) from error
        return CheckpointSaved(
            job_id=self.job_id,
            step=self.cursor.step,
            epoch=self.cursor.epoch,
            path=str(path),
            end_of_epoch=self._is_end_of_epoch(),
            is_last=self._is_over(),
            metrics=metrics,
            stopped_early=self._stops_early(),
        )

    def _finished(self, outcome: Literal["succeeded", "stopped"]) -> Finished:
        return Finished(
            job_id=self.job_id,
            outcome=outcome,
            step=self.cursor.step,
            trained_tokens=self.cursor.num_tokens,
        )


def _named(role: str, values: Mapping[str, V]) -> dict[str, V]:
    """As OpenAI has them, and those with a slash as TRL has them: of training without a prefix."""
    return {
        name if role == "train" and "/" in name else f"{role}_{name}": value
        for name, value in values.items()
    }
