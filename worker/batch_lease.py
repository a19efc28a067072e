"""The lease on a batch while this process works on it.

The thread that works keeps it alive itself: whatever it does comes by `check` or a write every second or
so. If it does not for a minute, another process may take the batch, and the token fences this one out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from storage import batches
from storage.batches import BatchRow, Claim

from .ending import Stopped
from .errands import Errands

LOOK_S = 1.0
"""Also how soon a batch hears that it was cancelled."""


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
        """Do `work`, which renews the lease, in one transaction; raises LostLease."""
        with self._errands.sessions.begin() as session:
            claim = work(session)
        # Not before the commit: rows of one that failed cannot be read any more.
        self.claim = claim
        self._looked_at = time.monotonic()
        return self.claim
