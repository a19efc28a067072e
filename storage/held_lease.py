"""The lease on a row in the hands of whoever works on it: every write goes through it, and renews it.

When the row is somebody else's (another process's, or nobody's since its user ended it), or when the
database has been out of reach for so long that it may be, the lease is lost and stays lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import structlog
from sqlalchemy.orm import Session, sessionmaker

from storage import leases
from storage.leases import Claim, LostLease, R
from storage.transactions import Transaction

T = TypeVar("T")

HEARTBEAT_S = 1.0
"""Also how soon a trainer hears that its job is to pause, and a silent one that it was cancelled."""
MARGIN_S = 5
"""So long before others may take the row its own process lets go of it."""

log = structlog.get_logger()


class HeldLease(Generic[R]):
    """Inside `with` a heartbeat keeps it alive; without, whoever works does by writing now and then."""

    def __init__(
        self, sessions: sessionmaker[Session], claim: Claim[R], *, renewed_at: float | None = None
    ) -> None:
        self.claim = claim
        self.on_lost: Callable[[], None] = lambda: None
        """Called once, on whichever thread finds out."""
        self._sessions = sessions
        self._renewed_at = time.monotonic() if renewed_at is None else renewed_at
        self._lost = threading.Event()
        self._is_over = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def row(self) -> R:
        """As it was at the last look."""
        return self.claim.row

    def __enter__(self) -> Self:
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_heartbeat()

    def check(self) -> None:
        """Raises LostLease if the lease is lost or as good as lost."""
        self._surely_lasts_until()

    def write(self, work: Callable[[Session], T], **values: Any) -> T:
        """Extend the lease, write `values` into the row, then do `work`, all in one transaction.

        Raises LostLease, before any work, if the row is not ours any more. A database that does not answer
        is asked again, so `work` may run twice; it takes effect once.
        """

        def run(session: Session) -> tuple[Claim[R], T]:
            return leases.renew(session, self.claim, **values), work(session)

        transaction = Transaction(self._sessions, run)
        try:
            seen, result = transaction.run(self._patience())
        except LostLease:
            self._lose()
            raise
        self._renewed_at = max(self._renewed_at, transaction.began_at)
        # The heartbeat may hear of a look of its own later than of one that came after it.
        if seen.looked_at > self.claim.looked_at:
            self.claim = seen
        return result

    def renew(self) -> None:
        """Extend the lease and look at the row; raises LostLease."""
        self.write(lambda _: None)

    def end(self, work: Callable[[Session], T]) -> T:
        """The last write, which gives the lease up."""
        self._stop_heartbeat()
        return self.write(work)

    def _patience(self) -> Callable[[], float]:
        """What says before each attempt at one write until when an answer is worth waiting for."""
        return self._surely_lasts_until

    def _surely_lasts_until(self) -> float:
        """On the monotonic clock, if nothing renews it. Raises LostLease if that is over."""
        end = self._renewed_at + self.row.LEASE_S - MARGIN_S
        if time.monotonic() > end:
            self._lose()
        if self._lost.is_set():
            raise LostLease(self.row.id)
        return end

    def _lose(self) -> None:
        if not self._lost.is_set():
            self._lost.set()
            self.on_lost()

    def _stop_heartbeat(self) -> None:
        self._is_over.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()

    def _beat(self) -> None:
        while not self._is_over.wait(HEARTBEAT_S):
            try:
                self.renew()
            except LostLease:
                return
            except Exception:
                # A heart that stops without a word would leave the trainer running for nobody.
                log.exception("lease.heartbeat_failed", id=self.row.id)
