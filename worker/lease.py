"""The lease on a job while this worker works on it: every write goes through it, a thread keeps it alive.

When the job is somebody else's (another worker's, or nobody's since the user cancelled it), or when
the database has been out of reach for so long that it may be, the lease is lost and stays lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy.orm import Session, sessionmaker

from storage.jobs import jobs
from storage.jobs.jobs import Claim, JobRow, LostLease
from storage.transactions import Transaction
from worker.job.ending import Paused

T = TypeVar("T")

HEARTBEAT_S = 1.0
"""Also how soon a trainer hears that its job is to pause, and a silent one that it was cancelled."""
MARGIN_S = 5
"""So long before others may take the job its own worker lets go of it."""

log = structlog.get_logger()


class Lease:
    """Use as a context manager: the heartbeat beats inside."""

    def __init__(
        self, sessions: sessionmaker[Session], claim: Claim, *, renewed_at: float | None = None
    ) -> None:
        self.claim = claim
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, on whichever thread finds out."""
        self.is_pausing = claim.job.pause_requested_at is not None
        """The job's owner wants it paused, as far as the last `renew` could tell."""
        self._sessions = sessions
        self._renewed_at = time.monotonic() if renewed_at is None else renewed_at
        self._lost = threading.Event()
        self._is_over = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def job(self) -> JobRow:
        """The row as it was when it was claimed."""
        return self.claim.job

    def __enter__(self) -> Self:
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._heartbeat.join()

    def check(self) -> None:
        """Raises LostLease if the lease is lost or as good as lost."""
        self._deadline()

    def check_pausing(self) -> None:
        """Raises Paused if the job's owner asked for that."""
        if self.is_pausing:
            raise Paused

    def write(self, work: Callable[[Session], T]) -> T:
        """Do `work`, which must renew the lease, in one transaction; raises LostLease.

        A database that does not answer is asked again for as long as the lease surely lasts, so
        `work` may run twice; it takes effect once.
        """
        transaction = Transaction(self._sessions, work)
        try:
            result = transaction.run(self._deadline)
        except LostLease:
            self._lose()
            raise
        self._renewed_at = max(self._renewed_at, transaction.began_at)
        return result

    def renew(self, session: Session, **values: Any) -> JobRow:
        """Write `values` and extend the lease; raises LostLease."""
        row = jobs.renew(session, self.claim, **values)
        self.is_pausing = row.pause_requested_at is not None
        return row

    def end(self, work: Callable[[Session], T]) -> T:
        """The last write, which gives the lease up."""
        self._is_over.set()
        self._heartbeat.join()
        return self.write(work)

    def _beat(self) -> None:
        while not self._is_over.wait(HEARTBEAT_S):
            try:
                self.write(self.renew)
            except LostLease:
                return
            except Exception:
                # A heart that stops without a word would leave the trainer running for nobody.
                log.exception("lease.heartbeat_failed", job_id=self.job.id)

    def _deadline(self) -> float:
        """Until when the lease surely lasts, if nothing renews it. Raises LostLease if that is over."""
        deadline = self._renewed_at + jobs.LEASE_S - MARGIN_S
        if time.monotonic() > deadline:
            self._lose()
        if self._lost.is_set():
            raise LostLease(self.job.id)
        return deadline

    def _lose(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            self.on_lost()
