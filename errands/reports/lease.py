"""The lease on a report while this process works on it."""

from __future__ import annotations

from errands.errands import Errands
from storage.held_lease import HeldLease
from storage.leases import Claim, Stopped
from storage.reports.reports import ReportRow


class ReportLease(HeldLease[ReportRow]):
    """Within `with`, a heartbeat keeps it alive."""

    def __init__(self, errands: Errands, claim: Claim[ReportRow]) -> None:
        super().__init__(errands.sessions, claim)
        self._errands = errands

    @property
    def report(self) -> ReportRow:
        return self.row

    def check(self) -> None:
        """Raises LostLease and Stopped."""
        if self._errands.is_stopping.is_set():
            raise Stopped
        super().check()

    def tell(self, **values: object) -> None:
        """Write columns that say how far it is. Raises LostLease."""
        self.write(lambda _: None, **values)
