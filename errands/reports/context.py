"""What a section has at hand while it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from errands.errands import Errands
from storage.jobs.jobs import JobRow
from storage.models import models
from storage.models.artifacts import ArtifactRow

from .asking import Asking, ReportQuestion
from .data import ReportData
from .lease import ReportLease
from .parts import Answered, Json, ReportParts

RESERVED = 0.4
"""Of the budget, for what is told beside the comparison."""


class SectionSkipped(Exception):
    """The section has nothing to say, for the reason that is its text."""


class ReportImpossible(Exception):
    """There can be no report: what it would be about is gone. What could be done about it is in the text."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Section(Protocol):
    """A part of a report. One of the class is made for each report."""

    name: ClassVar[str]
    """Its key in report.json."""
    cost: ClassVar[str]
    """In plain words: what it asks of models, or computes."""

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        """What it found, as JSON. Raises SectionSkipped, LostLease and Stopped.

        What is asked by `context.ask` is kept as it comes, so a second attempt asks for the rest only.
        """


@dataclass
class ReportContext:
    errands: Errands
    lease: ReportLease
    parts: ReportParts
    asking: Asking
    folder: Path
    """Of this attempt; empty at first."""
    job: JobRow
    base: str
    """The name by which the base is asked."""
    tuned: str
    artifact: ArtifactRow
    """The tuned model's."""
    data: ReportData
    budget_s: float
    """Of asking, in all sections together."""
    found: dict[str, Json] = field(default_factory=dict)
    """What the sections before found, by their names; `{"skipped": reason}` of one that did not."""
    spent_s: dict[str, float] = field(default_factory=dict)
    """By sections that are done."""

    @property
    def depth(self) -> str:
        return self.lease.report.depth

    @property
    def asked(self) -> Json:
        """What the job's creation said of its report: `prompt`, `grader`, `target`."""
        return self.lease.report.asked

    @property
    def seed(self) -> int:
        return self.job.seed

    @property
    def left_s(self) -> float:
        """Of the budget, for comparing contenders: the sections behind that have a share of it."""
        return max(0.0, (1 - RESERVED) * self.budget_s - sum(self.spent_s.values()))

    def room_s(self, share: float) -> float:
        """What a section behind the contenders may take: all that is left, its share of the budget at least."""
        return max(self.budget_s - sum(self.spent_s.values()), share * self.budget_s)

    def ask(
        self, section: str, questions: Iterable[ReportQuestion], *, alone: bool = False
    ) -> dict[str, Answered]:
        """As `Asking.ask`."""
        return self.asking.ask(section, questions, alone=alone)

    def of(self, section: str) -> Json:
        """What a section before found. Raises SectionSkipped with its reason if it was skipped."""
        found = self.found[section]
        if "skipped" in found:
            raise SectionSkipped(f"it goes by '{section}', which was skipped: {found['skipped']}")
        return found


def open_context(
    errands: Errands,
    lease: ReportLease,
    folder: Path,
    job: JobRow,
    data: ReportData,
    *,
    concurrency: int,
    budget_s: float,
) -> ReportContext:
    """Raises ReportImpossible and LostLease."""
    with errands.sessions() as session:
        found = models.find(session, job.project_id, job.fine_tuned_model or "")
    if found is None:
        raise ReportImpossible(
            "model_not_found",
            f"The job's model, {job.fine_tuned_model}, was deleted, so nobody can ask it. Train it again "
            f"(`luthier reproduce {job.id}`) and its job has a report.",
        )
    parts = ReportParts(errands, lease)
    return ReportContext(
        errands=errands,
        lease=lease,
        parts=parts,
        asking=Asking(errands, lease, parts, concurrency=concurrency),
        folder=folder,
        job=job,
        base=job.base_model,
        tuned=found[0].name,
        artifact=found[1],
        data=data,
        budget_s=budget_s,
    )


def shortened(text: str, limit: int = 2000) -> str:
    """For a reader: the beginning of what is long."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def lines_of(cases: Sequence[Any]) -> list[int]:
    return sorted({case.line for case in cases})
