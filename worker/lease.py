"""The lease on a job while this worker works on it."""

from __future__ import annotations

from storage.held_lease import HeldLease
from storage.jobs.jobs import JobRow
from worker.endings import Paused


class Lease(HeldLease[JobRow]):
    @property
    def job(self) -> JobRow:
        return self.row

    @property
    def is_pausing(self) -> bool:
        """The job's owner wants it paused, as far as the last look could tell."""
        return self.row.pause_requested_at is not None

    def check_pausing(self) -> None:
        """Raises Paused if the job's owner asked for that."""
        if self.is_pausing:
            raise Paused
