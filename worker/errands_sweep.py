"""The errands' sweep: rings for what a lost message or a crash left undone, every few seconds.

Any number of processes may run one; an advisory lock lets one at a time do the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage import batches, queue

from . import batch_output
from .errands import Errands

INTERVAL_S = 5.0
LITTER_INTERVAL_S = 300.0
# Any number will do, as long as every errands process uses the same.
_LOCK = 7_021_530_914

DUE: dict[str, Callable[[Session], list[str]]] = {queue.RUN_BATCH: batches.runnable}
"""Task -> the ids that it ought to be called with."""

log = structlog.get_logger()


class ErrandsSweep:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._litter_due_at = time.monotonic()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    def once(self) -> None:
        self._errands.bury_dead()
        with self._errands.sessions.begin() as session:
            if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}):
                return
            due = [(task, each) for task, find in DUE.items() for each in find(session)]
        # What waits in the queue already would only be rung for twice.
        if due and queue.depth(queue.ERRANDS_QUEUE) == 0:
            for task, each in due:
                queue.run_errand(task, each)
        if time.monotonic() >= self._litter_due_at:
            self._litter_due_at = time.monotonic() + LITTER_INTERVAL_S
            batch_output.remove_litter(self._errands)

    def _run(self) -> None:
        while True:
            try:
                self.once()
            except Exception as error:
                # The database or the broker is away: the next round finds the same work.
                log.warning("errands.sweep_failed", error=repr(error))
            if self._is_over.wait(INTERVAL_S):
                return
