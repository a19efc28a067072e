"""Several jobs on one trainer: a step of one, then a step of another, and small steps of several together.

Turns are fair by share, which is a job's project: whose jobs have had the least of the trainer's time is next, and
within a share the job that has had least. So a short job waits for a step of a long one, not for its end. What comes before a
job's first report, the load of a base above all, is nobody's.

A job may stand at a pass that others could make with it. When its turn comes it waits for those that have had hardly more of
the trainer than it; what they make together counts for each by its tokens. So who has few jobs
is held up by another's many for a moment at most, not at each step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.messages import Failed, Finished, Report

if TYPE_CHECKING:
    # Which loads torch, and this need not wait for it.
    from .fused import Pass

LEAD_S = 5.0
"""So much more of the trainer may a share or a job have had than the one that it makes a pass with."""


@dataclass(eq=False)
class _Turn:
    share: str
    reports: Generator[Pass | Report]
    served_s: float = 0.0
    has_begun: bool = False
    standing: Pass | None = None
    """The pass that it is about to make."""
    has_stood: bool = False


class Turns:
    """Jobs as iterators of their reports. Between two reports a job leaves the model to others."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        *,
        together: Callable[[Sequence[Pass]], Sequence[tuple[Pass, float]]] = lambda _: (),
    ) -> None:
        """`together` makes the first of the passes with some of the others and says with which, itself among them, and how
        much of the time was for each; of none if it is better made alone."""
        self._clock = clock
        self._together = together
        self._jobs: list[_Turn] = []
        self._served_s: dict[str, float] = {}
        """By share, of those that have jobs. Who comes starts where the least served stands."""

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def add(self, share: str, reports: Generator[Pass | Report]) -> None:
        """A job whose last report is Finished or Failed."""
        least_s = min(self._served_s.values(), default=0.0)
        self._served_s.setdefault(share, least_s)
        beside = [job.served_s for job in self._jobs if job.share == share]
        self._jobs.append(_Turn(share, reports, min(beside, default=0.0)))

    def next_report(self) -> Report:
        """What the job whose turn it is says next, or one that it waits for."""
        while True:
            job = min(self._jobs, key=lambda job: (self._served_s[job.share], job.served_s))
            if job.standing is not None:
                beside = self._beside(job)
                late = [other for other in beside if other.standing is None]
                if late:
                    job = late[0]
                else:
                    self._make_passes([job, *beside])
            item = self._next_item(job)
            if isinstance(item, Report):
                return item
            job.standing, job.has_stood = item, True

    def _beside(self, job: _Turn) -> list[_Turn]:
        """Those that it makes its pass with, once they stand at one.

        In a share that has any of them, a job whose turn comes before theirs has it, too: it may become one.
        """
        found: list[_Turn] = []
        for share, served_s in self._served_s.items():
            if served_s > self._served_s[job.share] + LEAD_S:
                continue
            own = [other for other in self._jobs if other.share == share and other is not job]
            if share == job.share:
                own = [other for other in own if other.served_s <= job.served_s + LEAD_S]
            standing = [other for other in own if other.has_stood]
            if standing and share != job.share:
                first = min(own, key=lambda other: other.served_s)
                standing += [first] if not first.has_stood else []
            found += standing
        return found

    def _make_passes(self, jobs: Sequence[_Turn]) -> None:
        """Of those that stand; who is left goes on standing, but for the first."""
        began_s = self._clock()
        passes = [job.standing for job in jobs if job.standing is not None]
        made = dict(self._together(passes))
        took_s = self._clock() - began_s
        for job in jobs:
            if job.standing in made:
                self._charge(job, took_s * made[job.standing])
                job.standing = None
        jobs[0].standing = None

    def _next_item(self, job: _Turn) -> Pass | Report:
        began_s = self._clock()
        item = next(job.reports)
        # Whoever comes first loads the base for all: charged for that, it would be left to catch up alone.
        if job.has_begun:
            self._charge(job, self._clock() - began_s)
        job.has_begun = True
        if isinstance(item, Finished | Failed):
            self._remove(job)
        return item

    def _charge(self, job: _Turn, took_s: float) -> None:
        job.served_s += took_s
        self._served_s[job.share] += took_s

    def _remove(self, job: _Turn) -> None:
        job.reports.close()
        self._jobs.remove(job)
        if all(other.share != job.share for other in self._jobs):
            del self._served_s[job.share]
