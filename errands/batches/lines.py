"""The lines of a batch, asked some at a time, and their answers kept in chunks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from errands.errands import BATCH_SLOTS, Errands
from storage.inference import batch_chunks, batch_turns
from storage.leases import Stopped

from . import input as batch_input
from .gateway import ApiReply, TimedOut
from .input import Line
from .lease import BatchLease
from .output import Answers

TURN_S = 60.0
"""After so long a batch makes room for one that waits."""
LEAVE_S = 60.0
"""For so long one that makes room waits for the lines that it has asked: they are computed already."""
LOOK_S = 2.0
"""How often it looks whether another waits."""
POLL_S = 0.5


class TurnOver(Exception):
    """Another batch has waited long enough."""


class _Turn:
    """The time that a batch has until it makes room for another: it goes on while nobody waits."""

    def __init__(self, errands: Errands, lease: BatchLease) -> None:
        self.num_answered = 0
        """Lines in this turn. One at least, or slow ones would be asked for ever."""
        self.is_leaving = False
        """No more lines are asked."""
        self._errands = errands
        self._lease = lease
        self._ends_at = time.monotonic() + TURN_S
        self._look_at = 0.0

    def is_over(self, num_pending: int) -> bool:
        """Another batch is to have the place, and there is nothing more to wait for."""
        now = time.monotonic()
        if self.is_leaving:
            return not num_pending or now > self._ends_at
        if self.num_answered and now > self._look_at:
            self._look_at = now + LOOK_S
            if not self._errands.leaving and self._must_give_way():
                self._errands.leaving.add(self._lease.batch.id)
                self.is_leaving = True
                self._ends_at = now + LEAVE_S
        return False

    def _must_give_way(self) -> bool:
        with self._errands.sessions() as session:
            return batch_turns.must_give_way(
                session,
                self._lease.claim,
                self._errands.name,
                BATCH_SLOTS,
                turn_is_over=time.monotonic() > self._ends_at,
            )


def ask(errands: Errands, lease: BatchLease, path: Path) -> None:
    """Ask every line that has no answer yet, until all have one or the batch is to end.

    Raises LostLease, Stopped and TurnOver; answers that are there by then are kept.
    """
    with errands.sessions() as session:
        answered = batch_chunks.answered(session, lease.batch.id)
        num_chunks = batch_chunks.count(session, lease.batch.id)
    rest = batch_input.lines(path, answered)
    answers = Answers(num_chunks + 1)
    pending: dict[Future[ApiReply], Line] = {}
    turn = _Turn(errands, lease)
    try:
        while turn.is_leaving or _fill(errands, lease, pending, rest):
            done, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                answers.add(pending.pop(future), _reply(future))
                turn.num_answered += 1
            if answers.is_due:
                answers = answers.keep(errands, lease)
            lease.check()
            if lease.is_overdue or lease.batch.status != "in_progress":
                break
            if turn.is_over(len(pending)):
                if pending or next(rest, None) is not None:
                    raise TurnOver
                break
    except (Stopped, TurnOver):
        answers.keep(errands, lease)
        raise
    finally:
        for future in pending:
            future.cancel()
    answers.keep(errands, lease)


def _fill(
    errands: Errands, lease: BatchLease, pending: dict[Future[ApiReply], Line], rest: Iterator[Line]
) -> bool:
    """Have as many lines under way as may be; False when none is left."""
    batch = lease.batch
    while len(pending) < errands.settings.batch_concurrency:
        line = next(rest, None)
        if line is None:
            break
        sent = errands.gateway.ask(batch.project_id, batch.id, batch.endpoint, line.sent)
        pending[sent] = line
    return bool(pending)


def _reply(future: Future[ApiReply]) -> ApiReply | None:
    try:
        return future.result()
    except TimedOut:
        return None
