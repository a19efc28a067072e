"""Takes away what nobody needs any more: what has expired, and blobs without a row, as crashes leave them between a blob
and its row, and cancelled jobs behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice

from sqlalchemy.orm import Session, sessionmaker

from storage import idempotency_keys
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobStore
from storage.files import files, upload_parts, uploads
from storage.inference import responses, stored_completions
from storage.jobs import jobs
from storage.models import artifacts, transfers
from storage.reports import reports
from storage.rounds import Rounds
from worker.job import publish

STATES_INTERVAL_S = 60.0
ORPHANS_INTERVAL_S = 3600.0
_BATCH = 1000


class Cleanup(Rounds):
    """Keeps in mind when it last looked for what, and what it suspected then."""

    name = "cleanup"
    interval_s = 10.0

    def __init__(
        self,
        sessions: sessionmaker[Session],
        blobs: BlobStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._sessions = sessions
        self._blobs = blobs
        self._clock = clock
        self._states_due_at = self._orphans_due_at = clock()
        self._suspects: set[str] = set()

    def once(self) -> None:
        self._remove_expired()
        now = self._clock()
        if now >= self._states_due_at:
            self._states_due_at = now + STATES_INTERVAL_S
            self._remove_states()
        if now >= self._orphans_due_at:
            self._orphans_due_at = now + ORPHANS_INTERVAL_S
            self._remove_orphans()

    def _remove_expired(self) -> None:
        with self._sessions.begin() as session:
            expired = files.remove_expired(session) + uploads.remove_expired(session)
            expired += transfers.remove_expired(session)
            stored_completions.remove_expired(session)
            responses.remove_expired(session)
            idempotency_keys.remove_expired(session)
        publish.delete(self._blobs, expired)

    def _remove_states(self) -> None:
        """What was kept to resume jobs from that have ended."""
        by_job: dict[str, list[str]] = {}
        for key in self._blobs.list("jobs/"):
            by_job.setdefault(key.split("/")[1], []).append(key)
        for job_ids in _batches(by_job):
            with self._sessions() as session:
                active = jobs.active(session, job_ids)
            for job_id in set(job_ids) - active:
                publish.delete(self._blobs, by_job[job_id])

    def _remove_orphans(self) -> None:
        """Blobs without a row that had none an hour ago either: a row follows its blob in no time."""
        orphans: set[str] = set()
        for prefix, known in (
            *((prefix, artifacts.known_keys) for prefix in artifact_keys.PREFIXES),
            ("files/", files.known_keys),
            ("uploads/", upload_parts.known_keys),
            (transfers.BLOB_PREFIX, transfers.known_keys),
            (reports.BLOB_PREFIX, reports.known_keys),
        ):
            for keys in _batches(self._blobs.list(prefix)):
                with self._sessions() as session:
                    orphans |= set(keys) - known(session, keys)
        publish.delete(self._blobs, sorted(orphans & self._suspects))
        self._suspects = orphans - self._suspects


def _batches(items: Iterable[str]) -> Iterable[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
