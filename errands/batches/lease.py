"""The lease on a batch while this process works on it.

The thread that works keeps it alive itself: whatever it does comes by `check` or a write every second or
so. If it does not for a minute, another process may take the batch, and the token fences this one out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from errands.errands import Errands
from foundation.errors import Unavailable
from storage.inference import batches
from storage.inference.batches import BatchRow, Claim
from storage.leases import Stopped
from storage.transactions import Transaction

LOOK_S = 1.0
"""Also how soon a batch hears that it was cancelled."""
PATIENCE_S = 15.0


class Patience:
    """For so long a database is asked again that does not answer; the first time in any case."""

    def __init__(self, errands: Errands) -> None:
        self._errands = errands
        self._ends_at: float | None = None

    def check(self) -> float:
        """Until when, on the monotonic clock. Raises Unavailable and Stopped."""
        if self._ends_at is None:
            self._ends_at = time.monotonic() + PATIENCE_S
        elif self._errands.is_stopping.is_set():
            raise Stopped
        elif time.monotonic() > self._ends_at:
            raise Unavailable(f"the database has not answered for {PATIENCE_S:.0f} seconds")
        return self._ends_at


class BatchLease:
    def __init__(self, errands: Errands, claim: Claim) -> None:
        self.claim = claim
        self._errands = errands
        self._looked_at = time.monotonic()

    @property
    def batch(self) -> BatchRow:
        """The row as it was at the last look."""
        return self.claim.batch

    def check(self) -> Claim:
        """How the batch stands; asked of the database now and then. Raises LostLease and Stopped."""
        if self._errands.is_stopping.is_set():
            raise Stopped
        if time.monotonic() - self._looked_at > LOOK_S:
            self.write(lambda session: batches.renew(session, self.claim))
        return self.claim

    def write(self, work: Callable[[Session], Claim]) -> Claim:
        """Do `work`, which renews the lease, in one transaction; raises LostLease.

        A database that does not answer is asked again for a while, so `work` may run twice; it takes
        effect once. Raises Unavailable after that, and Stopped.
        """
        self.claim = Transaction(self._errands.sessions, work).run(Patience(self._errands).check)
        self._looked_at = time.monotonic()
        return self.claim
