"""Several jobs on one trainer: a step of one, then a step of another.

Turns are fair by share, which is a job's project: whose jobs have had the least of the trainer's time is next, and
within a share the job that has had least. So a short job waits for a step of a long one, not for its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .messages import Failed, Finished, Report


@dataclass(eq=False)
class _Turn:
    share: str
    reports: Generator[Report]
    served_s: float = 0.0


class Turns:
    """Jobs as iterators of their reports. Between two reports a job leaves the model to others."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._jobs: list[_Turn] = []
        self._served_s: dict[str, float] = {}
        """By share, of those that have jobs. Who comes starts where the least served stands."""

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def add(self, share: str, reports: Generator[Report]) -> None:
        """A job whose last report is Finished or Failed."""
        least_s = min(self._served_s.values(), default=0.0)
        self._served_s.setdefault(share, least_s)
        beside = [job.served_s for job in self._jobs if job.share == share]
        self._jobs.append(_Turn(share, reports, min(beside, default=0.0)))

    def next_report(self) -> Report:
        """What the job whose turn it is says next."""
        job = min(self._jobs, key=lambda job: (self._served_s[job.share], job.served_s))
        began_s = self._clock()
        report = next(job.reports)
        took_s = self._clock() - began_s
        job.served_s += took_s
        self._served_s[job.share] += took_s
        if isinstance(report, Finished | Failed):
            self._remove(job)
        return report

    def _remove(self, job: _Turn) -> None:
        job.reports.close()
        self._jobs.remove(job)
        if all(other.share != job.share for other in self._jobs):
            del self._served_s[job.share]
