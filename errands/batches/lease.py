"""The lease on a batch while this process works on it.

The thread that works keeps it alive itself: whatever it does comes by `check` or a write every second or
so. If it does not for a minute, another process may take the batch, and the token fences this one out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from errands.errands import Errands
from errands.patience import Patience
from storage.held_lease import HeldLease
from storage.inference.batches import BatchRow
from storage.leases import Claim, Stopped

LOOK_S = 1.0
"""Also how soon a batch hears that it was cancelled."""


class BatchLease(HeldLease[BatchRow]):
    def __init__(self, errands: Errands, claim: Claim[BatchRow]) -> None:
        super().__init__(errands.sessions, claim)
        self._errands = errands

    @property
    def batch(self) -> BatchRow:
        return self.row

    @property
    def is_overdue(self) -> bool:
        """The batch's window is over, as far as the last look could tell."""
        return self.claim.looked_at >= self.batch.expires_at

    def check(self) -> None:
        """Ask the database now and then how the batch stands. Raises LostLease and Stopped."""
        if self._errands.is_stopping.is_set():
            raise Stopped
        if time.monotonic() - self._renewed_at > LOOK_S:
            self.renew()

    def _patience(self) -> Callable[[], float]:
        """A write raises Unavailable after a while, and Stopped."""
        return Patience(self._errands).check
