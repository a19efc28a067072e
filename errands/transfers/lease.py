"""The lease on a transfer while this process works on it."""

from __future__ import annotations

import time

from storage.held_lease import HeldLease
from storage.models.transfers import TransferRow

TELL_S = 0.5
SHARE_OF_MAKING = 0.9
"""Of all the work; the rest is storing what was made."""


class TransferLease(HeldLease[TransferRow]):
    _told_at = 0.0

    @property
    def transfer(self) -> TransferRow:
        return self.row

    def tell_progress(self, share: float) -> None:
        """Raises LostLease."""
        now = time.monotonic()
        if now - self._told_at > TELL_S:
            self._told_at = now
            self.write(lambda _: None, progress=round(SHARE_OF_MAKING * share, 4))
