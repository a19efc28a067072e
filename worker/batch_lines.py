"""The lines of a batch, asked some at a time, and their answers kept in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from storage import batch_chunks, batches

from . import batch_input
from .batch_input import Line
from .batch_lease import BatchLease
from .batch_output import Answers
from .ending import Stopped
from .errands import Errands
from .gateway import Reply, TimedOut

TURN_S = 600.0
"""After so long a batch makes room for one that waits."""
POLL_S = 0.5


class TurnOver(Exception):
    """Another batch has waited long enough."""


def ask(errands: Errands, lease: BatchLease, path: Path) -> None:
    """Ask every line that has no answer yet, until all have one or the batch is to end.

    Raises LostLease, Stopped and TurnOver; answers that are there by then are kept.
    """
    with errands.sessions() as session:
        answered = batch_chunks.answered(session, lease.batch.id)
        num_chunks = batch_chunks.count(session, lease.batch.id)
    rest = batch_input.lines(path, answered)
    answers = Answers(num_chunks + 1)
    pending: dict[Future[Reply], Line] = {}
    turn_ends_at = time.monotonic() + TURN_S
    try:
        while _fill(errands, lease, pending, rest):
            done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                answers.add(pending.pop(future), _reply(future))
            if answers.is_due:
                answers = answers.keep(errands, lease)
            claim = lease.check()
            if claim.is_expired or claim.batch.status != "in_progress":
                break
            if time.monotonic() > turn_ends_at:
                _let_others(errands)
                turn_ends_at = time.monotonic() + TURN_S
    except (Stopped, TurnOver):
        answers.keep(errands, lease)
        raise
    finally:
        for future in pending:
            future.cancel()
    answers.keep(errands, lease)


def _fill(
    errands: Errands, lease: BatchLease, pending: dict[Future[Reply], Line], rest: Iterator[Line]
) -> bool:
    """Have as many lines under way as may be; False when none is left."""
    batch = lease.batch
    while len(pending) < errands.settings.batch_concurrency:
        line = next(rest, None)
        if line is None:
            break
        body = json.dumps(line.body, ensure_ascii=False).encode()
        pending[errands.gateway.ask(batch.project_id, batch.id, batch.endpoint, body)] = line
    return bool(pending)


def _reply(future: Future[Reply]) -> Reply | None:
    try:
        return future.result()
    except TimedOut:
        return None


def _let_others(errands: Errands) -> None:
    """Raises TurnOver if a batch waits."""
    with errands.sessions() as session:
        if batches.runnable(session, limit=1):
            raise TurnOver
