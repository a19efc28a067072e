"""The rows that a report goes by: those that were learnt, and those that were not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from dataset.task_type import DetectedTask, TaskTypeCollector, last_turn
from errands.errands import Errands
from foundation.jsonl import BadLine, LineReader
from storage.files import files
from storage.files.files import FileRow
from storage.jobs.jobs import JobRow

from . import cases
from .cases import Case
from .lease import ReportLease

MAX_TRAINING_CASES = 20_000
"""That worked examples and neighbours are looked for among; of a longer file those that come first."""
MAX_HELD_CHARS = 64 << 20
"""Of the texts of a file that are in memory."""
WHY_NOT_METHODS = {
    "dpo": "The job compared two answers to each prompt; there is no single right answer to measure a model by.",
    "unsupervised": "The job learnt raw text; nothing is asked in it that a model could answer.",
    "classification": "The job chose among classes; its own metrics on the validation file say how well.",
}
"""What such rows cannot tell."""

How = Literal["file", "none"]


@dataclass
class ReportData:
    training: list[Case] = field(default_factory=list)
    holdout: list[Case] = field(default_factory=list)
    """Cases that the model has not learnt."""
    how: How = "none"
    """Where they are from: the job's validation file, or nowhere."""
    why_none: str | None = None
    """What is missing, and what would bring it."""
    task: DetectedTask | None = None
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures should know of the rows."""

    @property
    def num_rows(self) -> int:
        return len({case.line for case in self.holdout})


def read(errands: Errands, lease: ReportLease, job: JobRow) -> ReportData:
    """Raises LostLease and Stopped."""
    data = ReportData()
    with errands.sessions() as session:
        training = files.find(session, job.project_id, job.training_file)
        holdout = (
            files.find(session, job.project_id, job.validation_file)
            if job.validation_file is not None
            else None
        )
    collector = TaskTypeCollector()
    if training is None:
        data.notes.append(
            f"The training file {job.training_file} is gone, so nothing could be compared with its rows: no worked "
            "examples, no neighbours."
        )
    else:
        data.training = _cases(errands, lease, training, collector, data)
    _hold_out(errands, lease, job, holdout, collector, data)
    if collector.num_rows:
        data.task = collector.result()
    return data


def _hold_out(
    errands: Errands,
    lease: ReportLease,
    job: JobRow,
    file: FileRow | None,
    collector: TaskTypeCollector,
    data: ReportData,
) -> None:
    if job.validation_file is None:
        data.why_none = (
            "The job had no validation file, so every row that it was given was learnt, and on learnt rows any tuned "
            "model looks good. Give the next job a validation file of rows that are not in the training file: 57 show "
            "differences of 20 points, 155 of 10."
        )
    elif file is None:
        data.why_none = f"The validation file {job.validation_file} is gone, so there are no rows that the model has not learnt."
    elif job.method in WHY_NOT_METHODS:
        data.why_none = WHY_NOT_METHODS[job.method]
    else:
        own = collector if not collector.num_rows else TaskTypeCollector()
        found = _cases(errands, lease, file, own, data)
        learnt = {case.question for case in data.training}
        data.holdout = [case for case in found if case.question not in learnt]
        num_known = len({c.line for c in found}) - data.num_rows
        data.how = "file"
        if num_known:
            data.notes.append(
                f"{num_known} rows of the validation file ask what a training row asks, too, and were left out."
            )
        data.notes += _cautions(job, data)
        if not data.holdout:
            data.how = "none"
            data.why_none = (
                "All rows of the validation file ask what training rows ask, too; rows that were learnt show nothing."
                if num_known
                else "The validation file has no row in which a model answers something."
            )


def _cautions(job: JobRow, data: ReportData) -> Iterator[str]:
    """What makes figures say less than they seem to."""
    if len(data.holdout) > data.num_rows:
        yield (
            "Conversations are measured turn by turn, each behind what the row has before it, not behind what the model "
            "said; turns of one conversation count together in the intervals."
        )
    control = job.hyperparameters.get("luthier") or {}
    if control.get("keep") == "best" or control.get("early_stopping"):
        yield (
            "The validation file has also chosen the checkpoint that is the model, so its figure is a little better than "
            "it would be on other rows."
        )


def _cases(
    errands: Errands,
    lease: ReportLease,
    file: FileRow,
    collector: TaskTypeCollector,
    data: ReportData,
) -> list[Case]:
    """Of the file's rows, as far as they fit."""
    found: list[Case] = []
    num_chars = 0
    for line, row in _rows(errands, lease, file):
        turn = last_turn(row)
        if turn is not None:
            collector.add(turn)
        for case in cases.of_row(row, line):
            num_chars += len(case.wanted.text) + sum(len(str(m)) for m in case.messages)
            found.append(case)
        if len(found) >= MAX_TRAINING_CASES or num_chars > MAX_HELD_CHARS:
            data.notes.append(f"Of {file.filename} the first {line} lines were looked at.")
            break
    return found


def _rows(
    errands: Errands, lease: ReportLease, file: FileRow
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The file's lines that are objects: training has refused a file with others, or passed over them."""
    reader = LineReader()
    chunks = errands.blobs.read(file.blob_key, size_bytes=file.size_bytes, sha256=file.sha256)
    for chunk in chain(chunks, (b"\n",)):
        lease.check()
        rest = chunk
        while True:
            try:
                yield from reader.feed(rest)
                break
            except BadLine:
                rest = b""
