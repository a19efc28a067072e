"""The resident trainer: keeps the base loaded from job to job, and turns a job into reports."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from dataset.tokenized import Dataset, Statistics
from modeling.artifacts import kinds
from modeling.artifacts.artifact import Artifact
from modeling.base import Precision, choose_precision

from . import checkpoint
from .checkpoint import Checkpoint, Cursor
from .course import Course
from .failures import describe
from .messages import Dpo, Report, Start, Started, StopReason, TrainConfig
from .primitives import Learner
from .programs import program_of
from .resident import ResidentBases
from .sharing.fused import Pass, is_small

log = logging.getLogger(__name__)


class JobRunner:
    """Any number of jobs. Between two reports of a job the base is its plain self, and others may train on it."""

    def __init__(self, resident_bytes: int = 0) -> None:
        """Bases of `resident_bytes` altogether stay in memory, the last one in any case."""
        self._default_threads = torch.get_num_threads()
        self._bases = ResidentBases(resident_bytes)

    def reports(
        self, start: Start, stop_reason: Callable[[], StopReason | None]
    ) -> Generator[Report]:
        """Run a job by itself. The last report is Finished or Failed, whatever happens.

        `stop_reason` is asked between micro-batches.
        """
        for item in self.turns(start, stop_reason):
            if not isinstance(item, Pass):
                yield item

    def turns(
        self, start: Start, stop_reason: Callable[[], StopReason | None]
    ) -> Generator[Pass | Report]:
        """As `reports`, with the small passes that are about to be made: others' may be made with them."""
        try:
            yield from self._turns(start, stop_reason)
        except Exception as error:
            log.exception("%s failed", start.job_id)
            yield describe(error, start)

    def _turns(
        self, start: Start, stop_reason: Callable[[], StopReason | None]
    ) -> Iterator[Pass | Report]:
        self._use_threads(start)
        precision = choose_precision(start.config.precision)
        with self._bases.lent(Path(start.config.base_path), precision) as model:
            yield from self._turns_on(model, precision, start, stop_reason)

    def _turns_on(
        self,
        model: PreTrainedModel,
        precision: Precision,
        start: Start,
        stop_reason: Callable[[], StopReason | None],
    ) -> Iterator[Pass | Report]:
        config = start.config
        training = Dataset.open(Path(start.training_set))
        validation = Dataset.open(Path(start.validation_set)) if start.validation_set else None
        merged = _init_artifact(start, model) if start.merges_init else None
        learner = Learner(model, config, Path(start.output_dir), merged)
        try:
            program = program_of(config, learner)
            resumed = _restore(learner, start, model, training)
            if resumed:
                program.load_state(resumed.program)
            learner.plan_memory(training.longest)
            course = Course(
                job_id=start.job_id,
                config=config,
                learner=learner,
                program=program,
                training=training,
                validation=validation,
                output_dir=Path(start.output_dir),
                environment=checkpoint.environment(
                    precision,
                    learner.device,
                    training.statistics.sha256,
                    validation.statistics.sha256 if validation else None,
                ),
                stop_reason=stop_reason,
                cursor=resumed.cursor if resumed else Cursor(),
            )
            started = _started(course, resumed.environment if resumed else None, precision)
            for item in itertools.chain([started], course.reports()):
                if isinstance(item, Pass) and not is_small(item):
                    continue
                with learner.set_aside():
                    yield item
                self._use_threads(start)
        finally:
            learner.close()

    def _use_threads(self, start: Start) -> None:
        torch.set_num_threads(start.config.num_threads or self._default_threads)


def _restore(
    learner: Learner, start: Start, model: PreTrainedModel, training: Dataset
) -> Checkpoint | None:
    """Put the learner where the job stands: at its checkpoint, else at the model it goes on from, else at the beginning.

    Gives the checkpoint.
    """
    if start.resume_from:
        return learner.load(Path(start.resume_from))
    if start.init_artifact and not start.merges_init:
        learner.begin_from(_init_artifact(start, model))
    else:
        learner.begin(training.examples)
    return None


def _init_artifact(start: Start, model: PreTrainedModel) -> Artifact:
    """The tuned model that the job goes on from. Raises ArtifactError."""
    assert start.init_artifact is not None
    files = kinds.format_of(start.init_kind or start.config.trainable.kind)
    folder = Path(start.init_artifact)
    return files.read(folder, model.config, base_model=start.config.base_model)


def _started(course: Course, before: dict[str, str] | None, precision: Precision) -> Started:
    """`before` is the environment of the checkpoint that the job resumes from."""
    before = course.environment if before is None else before
    differences = [
        f"{name} was {before.get(name, 'unknown')}, is {value}"
        for name, value in course.environment.items()
        if before.get(name) != value
    ]
    warnings = _dataset_warnings(course.training.statistics, "training", course.config)
    if course.validation:
        warnings += _dataset_warnings(course.validation.statistics, "validation", course.config)
    if differences:
        warnings.append(
            "The job resumes in another environment, so its numbers may differ in the last digits "
            f"from those of an unbroken run: {'; '.join(differences)}"
        )
    return Started(
        job_id=course.job_id,
        num_examples=len(course.training.examples),
        num_tokens=course.training.statistics.num_tokens,
        num_supervised_tokens=course.training.statistics.num_supervised_tokens,
        total_steps=course.total_steps,
        step=course.cursor.step,
        precision=precision,
        exact_resume=not differences,
        warnings=warnings,
    )


def _dataset_warnings(loaded: Statistics, role: str, config: TrainConfig) -> list[str]:
    warnings = []
    if loaded.num_truncated:
        where = "the beginning of the prompt" if isinstance(config.method, Dpo) else "the end"
        warnings.append(
            f"{loaded.num_truncated} example(s) of the {role} file are longer than {config.max_seq_len} "
            f"tokens and were truncated at {where}"
        )
    if loaded.num_left_out:
        are_pairs = isinstance(config.method, Dpo)
        nothing = (
            "nothing to tell their answers apart by" if are_pairs else "no token to learn from"
        )
        warnings.append(
            f"{loaded.num_left_out} example(s) of the {role} file have {nothing} and were left out"
        )
    if loaded.num_too_long:
        warnings.append(
            f"{loaded.num_too_long} example(s) of the {role} file are longer than {config.max_seq_len} tokens "
            "and were left out, for their label, which stands at the end, would be cut off"
        )
    if loaded.num_silent:
        warnings.append(
            f"{loaded.num_silent} example(s) of the {role} file, the first of them example "
            f"{loaded.first_silent}, have an assistant turn or a completion without text: the model "
            "learns to say nothing there. If that is not meant, give it text or leave it out"
        )
    return warnings
