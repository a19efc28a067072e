"""The sweep: finds what a lost message, a crash or a cancel left undone, every few seconds.

It decides nothing: it rings for jobs that somebody may claim, and takes away blobs that nobody needs.
Any number of workers may run one; an advisory lock lets one at a time do the work.
"""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from storage import files, jobs, queue, stored_completions, uploads

from . import publish
from .litter import Litter
from .worker import Worker

INTERVAL_S = 10.0
# Any number will do, as long as every worker uses the same.
_LOCK = 7_021_530_913

log = structlog.get_logger()


class Sweep:
    """Runs on a thread of its own between `start` and `stop`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._is_over = threading.Event()
        self._litter = Litter(worker.sessions, worker.blobs)
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    def _run(self) -> None:
        while True:
            try:
                self.once()
            except Exception as error:
                # The database or the blob store is away: the next round finds the same work.
                log.warning("sweep.failed", error=repr(error))
            if self._is_over.wait(INTERVAL_S):
                return

    def once(self) -> None:
        self._worker.bury_dead()
        with self._worker.sessions.begin() as session:
            if not _try_lock(session):
                return
            runnable = jobs.runnable(session)
            expired = files.remove_expired(session) + uploads.remove_expired(session)
            stored_completions.remove_expired(session)
        publish.delete(self._worker.blobs, expired)
        if runnable and queue.depth() == 0:
            for job_id in runnable:
                queue.ring(job_id)
        self._litter.collect()


def _try_lock(session: Session) -> bool:
    """Until the end of the transaction; False when another worker sweeps."""
    lock = session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    return bool(lock)
