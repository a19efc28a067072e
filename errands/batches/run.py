"""One attempt at a batch, from the claim to its end, to the process's end, or to somebody else's turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import structlog

from errands.errands import BATCH_SLOTS, Errands
from errands.patience import Patience
from foundation.crash_points import crash_point
from foundation.errors import BlobError, Unavailable
from storage import leases, queue
from storage.inference import batch_chunks, batch_turns, batches
from storage.inference.batches import BatchRow, Ending
from storage.leases import Claim, LostLease, Stopped
from storage.transactions import OUT_OF_REACH, Transaction

from . import input as batch_input
from . import lines as batch_lines
from . import output as batch_output
from .input import InputGone, Line
from .lease import BatchLease
from .lines import TurnOver

CRASH_POINTS = (
    "after_batch_claim",
    "after_begin",
    "before_chunk_commit",
    "after_chunk_commit",
    "after_finalize",
    "before_end",
    "after_end",
)
STORAGE_RETRY_S = 15.0
CRASH_RETRY_S = 10.0
MAX_CRASHES = 5

_OUT_OF_REACH = (BlobError, Unavailable, *OUT_OF_REACH)

log = structlog.get_logger()


def run(errands: Errands, batch_id: str) -> None:
    """Somebody rang for a batch: work on the one whose turn it is, if there is a slot for it."""
    claim = _claim(errands, batch_id)
    if claim is None:
        return  # the next batch to let go of its slot rings
    crash_point("after_batch_claim")
    try:
        _attempt(errands, BatchLease(errands, claim))
    finally:
        errands.leaving.discard(claim.row.id)
    _ring_for_the_next(errands)


def _claim(errands: Errands, batch_id: str) -> Claim[BatchRow] | None:
    if errands.is_stopping.is_set():
        # The message is spent; the next process wants another.
        queue.run_errand(queue.RUN_BATCH, batch_id)
        return None
    claiming = Transaction(
        errands.sessions, lambda session: batch_turns.claim(session, errands.name, BATCH_SLOTS)
    )
    return claiming.run(Patience(errands).check)


def _ring_for_the_next(errands: Errands) -> None:
    with errands.sessions() as session:
        for batch_id in leases.runnable(session, BatchRow, limit=1):
            queue.run_errand(queue.RUN_BATCH, batch_id)


def _attempt(errands: Errands, lease: BatchLease) -> None:
    """Work on the batch, and write down how that ended."""
    batch_id = lease.batch.id
    try:
        # Not the batch's alone: another thread of this process may still hold on to a lost lease.
        with errands.folder.job(f"{batch_id}-{lease.claim.lease_token}") as folder:
            _work(errands, lease, folder)
        log.info("batch.done", batch_id=batch_id)
    except (LostLease, Stopped, TurnOver) as reason:
        # A lease is also given up when the batch was cancelled in the moment of another ending.
        log.info("batch.let_go", batch_id=batch_id, reason=type(reason).__name__)
        _release(errands, lease)
    except _OUT_OF_REACH as error:
        # The batch can do nothing about it, and waits for it as long as it takes.
        log.warning("batch.storage_unavailable", batch_id=batch_id, error=str(error))
        _release(errands, lease, after_s=STORAGE_RETRY_S)
    except Exception:
        log.exception("batch.unexpected_error", batch_id=batch_id)
        _release(errands, lease, after_s=CRASH_RETRY_S, is_crash=True)


def _release(
    errands: Errands, lease: BatchLease, *, after_s: float = 0, is_crash: bool = False
) -> None:
    is_free = errands.let_go(lease.claim, after_s=after_s, is_crash=is_crash)
    if is_free and errands.is_stopping.is_set():
        queue.run_errand(queue.RUN_BATCH, lease.batch.id)


def _work(errands: Errands, lease: BatchLease, folder: Path) -> None:
    """Every step finds out what an earlier attempt has done already."""
    if lease.batch.crashes >= MAX_CRASHES:
        text = (
            f"The batch was given up after {lease.batch.crashes} failures of the server in a row."
        )
        _fail(errands, lease, "server_error", text)
        return
    source = _Source(errands, lease, folder)
    try:
        if lease.batch.status == "validating" and not _validate(errands, lease, source):
            return
        if lease.batch.status == "in_progress":
            batch_lines.ask(errands, lease, source.path())
            lease.write(lambda session: batches.finalize(session, lease.claim))
            crash_point("after_finalize")
    except InputGone:
        text = "The input file was deleted before all of its requests were executed."
        _fail(errands, lease, "invalid_input_file", text)
        return
    batch_output.finish(errands, lease, _ending(lease.batch), source.not_asked())


def _ending(batch: BatchRow) -> Ending:
    if batch.status == "cancelling":
        return "cancelled"
    return "expired" if batch.num_unanswered else "completed"


class _Source:
    """The input file, fetched when it is first wanted."""

    def __init__(self, errands: Errands, lease: BatchLease, folder: Path) -> None:
        self._errands = errands
        self._lease = lease
        self._folder = folder
        self._path: Path | None = None

    def path(self) -> Path:
        """Raises InputGone."""
        if self._path is None:
            file = batch_input.find(self._errands, self._lease.batch)
            self._path = batch_input.fetch(self._errands, self._lease, file, self._folder)
        return self._path

    def refusals(self) -> batch_input.Findings:
        try:
            file = batch_input.find(self._errands, self._lease.batch)
        except InputGone:
            file = None
        return batch_input.refusals(self._lease.batch, file)

    def not_asked(self) -> Iterator[Line]:
        """The lines that have no answer; none if the file is gone."""
        if self._lease.batch.num_unanswered:
            try:
                path = self.path()
            except InputGone:
                return
            with self._errands.sessions() as session:
                answered = batch_chunks.answered(session, self._lease.batch.id)
            yield from batch_input.lines(path, answered)


def _validate(errands: Errands, lease: BatchLease, source: _Source) -> bool:
    """Whether the batch may go on; otherwise it has failed."""
    findings = source.refusals()
    if not findings.problems:
        findings = batch_input.check(source.path(), lease.batch.endpoint, lease)
    if findings.problems:
        batch_output.finish(errands, lease, "failed", (), findings.problems)
        return False
    lease.write(
        lambda session: batches.begin(
            session, lease.claim, model=findings.model, num_lines=findings.num_lines
        )
    )
    crash_point("after_begin")
    return True


def _fail(errands: Errands, lease: BatchLease, code: str, message: str) -> None:
    problem = {"code": code, "message": message, "param": None, "line": None}
    batch_output.finish(errands, lease, "failed", (), [problem])
