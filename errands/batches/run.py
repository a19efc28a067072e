"""One attempt at a batch, from the claim to its end, to the process's end, or to somebody else's turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from errands import attempts
from errands.attempts import Errand
from errands.errands import BATCH_SLOTS, Errands
from foundation.crash_points import crash_point
from foundation.errors import BlobError
from storage import queue
from storage.inference import batch_chunks, batch_turns, batches
from storage.inference.batches import BatchRow, Ending
from storage.leases import Claim

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
MAX_CRASHES = 5


def run(errands: Errands, batch_id: str) -> None:
    """Somebody rang for a batch: work on the one whose turn it is, if there is a slot for it."""
    attempts.run(errands, BATCH, batch_id)


def _attempt(errands: Errands, claim: Claim[BatchRow], folder: Path) -> None:
    _work(errands, BatchLease(errands, claim), folder)


BATCH = Errand(
    "batch",
    queue.RUN_BATCH,
    BatchRow,
    take=lambda session, owner: batch_turns.claim(session, owner, BATCH_SLOTS),
    work=_attempt,
    crash_retry_s=10.0,
    gives_way=(TurnOver,),
    waits_for=(BlobError,),
    afterwards=lambda errands, claim: errands.leaving.discard(claim.row.id),
)


def _work(errands: Errands, lease: BatchLease, folder: Path) -> None:
    """Every step finds out what an earlier attempt has done already."""
    given_up = attempts.given_up(lease.batch, "The batch", MAX_CRASHES)
    if given_up is not None:
        _fail(errands, lease, "server_error", given_up)
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
