"""The errands' sweep: rings for what a lost message or a crash left undone, every few seconds.

Any number of processes may run one; an advisory lock lets one at a time do the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage import queue

from .errands import Errands

INTERVAL_S = 5.0
# Any number will do, as long as every errands process uses the same.
_LOCK = 7_021_530_914

DUE: dict[str, Callable[[Session], list[str]]] = {}
"""Task -> the ids that it ought to be called with."""

log = structlog.get_logger()


class ErrandsSweep:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    def once(self) -> None:
        with self._errands.sessions.begin() as session:
            if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}):
                return
            due = [(task, ids) for task, find in DUE.items() for ids in find(session)]
        # What waits in the queue already would only be rung for twice.
        if due and queue.depth(queue.ERRANDS_QUEUE) == 0:
            for task, ids in due:
                queue.run_errand(task, ids)

    def _run(self) -> None:
        while True:
            try:
                self.once()
            except Exception as error:
                # The database or the broker is away: the next round finds the same work.
                log.warning("errands.sweep_failed", error=repr(error))
            if self._is_over.wait(INTERVAL_S):
                return
