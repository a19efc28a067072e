"""How long a thread of the errands waits for a database that does not answer."""

from __future__ import annotations

import time

from errands.errands import Errands
from foundation.errors import Unavailable
from storage.leases import Stopped

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
