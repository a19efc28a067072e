"""Which jobs are in the trainer at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.25
"""Between two looks at whether a job that waits may go on waiting."""


class Occupancy:
    """Jobs on one base share the trainer; those on another wait until it is free, in the order in which they came.

    A job that has something to prove is alone until it has come to a checkpoint. One that was lost and claimed anew waits until its former attempt has left:
    the two would share what goes by the job's name.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[str, str] = {}
        """By job the base."""
        self._is_closed = False
        """To others, for the sake of the one inside."""
        self._waiting: list[str] = []
        self._suspects: set[str] = set()

    def suspect(self, job_id: str) -> None:
        """The trainer died with this job in it, and others."""
        with self._changed:
            self._suspects.add(job_id)

    @contextmanager
    def taken(
        self, job_id: str, base: str, *, is_alone: bool, check: Callable[[], None]
    ) -> Iterator[None]:
        """Waits for a place. `check` is called meanwhile, and what it raises ends the waiting."""
        with self._changed:
            is_alone = is_alone or job_id in self._suspects
            self._waiting.append(job_id)
            try:
                while self._waiting[0] != job_id or not self._has_room(job_id, base, is_alone):
                    self._changed.wait(LOOK_S)
                    check()
                self._inside[job_id] = base
                self._is_closed = is_alone
            finally:
                self._waiting.remove(job_id)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                del self._inside[job_id]
                self._is_closed = False
                self._suspects.discard(job_id)
                self._changed.notify_all()

    def open(self, job_id: str) -> None:
        """The job has got on: if it was alone, others may come in beside it."""
        with self._changed:
            if job_id in self._inside:
                self._is_closed = False
                self._changed.notify_all()

    def _has_room(self, job_id: str, base: str, is_alone: bool) -> bool:
        if job_id in self._inside:
            return False
        if is_alone:
            return not self._inside
        return not self._is_closed and all(other == base for other in self._inside.values())
