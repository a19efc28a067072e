"""Transactions that take effect once, although the answer to a commit may get lost.

When the connection breaks while a commit is under way, only the server knows whether it was done. It keeps
that under the transaction's id, so whoever tries again asks first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy import String, cast, exc, func, select
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.types import UserDefinedType

from .deadlines import answered_by

T = TypeVar("T")

RETRY_S = 0.5
ATTEMPT_S = 8.0
"""A statement takes milliseconds: a connection that is silent for so long is given up for another."""

log = structlog.get_logger()


class Undecided(Exception):
    """The server is still at the commit of an earlier attempt."""


OUT_OF_REACH = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, Undecided)
"""What says nothing about the work, only about the way to the server: try again."""


class Transaction(Generic[T]):
    """`work`, committed once. It may run several times, but only one run has an effect.

    Rows that it gives back are as they were then, and belong to no session.
    """

    def __init__(self, sessions: sessionmaker[Session], work: Callable[[Session], T]) -> None:
        self.began_at = 0.0
        """By the monotonic clock: when the run began that had the effect."""
        self._sessions = sessions
        self._work = work
        self._pending: tuple[str, T] | None = None
        """Id and result of a transaction that may be committed."""

    def run(self, deadline: Callable[[], float]) -> T:
        """Try until it is done.

        `deadline` is asked before each attempt: until when, on the monotonic clock, an answer is worth
        waiting for. It raises when it is too late.
        """
        while True:
            try:
                with answered_by(min(deadline(), time.monotonic() + ATTEMPT_S)):
                    return self.attempt()
            except OUT_OF_REACH as error:
                log.warning("transaction.database_out_of_reach", error=str(error))
                time.sleep(RETRY_S)

    def attempt(self) -> T:
        """Do the work, unless an earlier attempt turns out to have done it."""
        if self._pending is not None:
            xid, result = self._pending
            if self._is_committed(xid):
                return result
            self._pending = None
        self.began_at = time.monotonic()
        with self._sessions.begin() as session:
            result = self._work(session)
            session.flush()
            xid = session.scalars(select(cast(func.pg_current_xact_id(), String))).one()
            # So that a commit that fails does not take from the rows what is known of them.
            session.expunge_all()
            self._pending = xid, result
        return result

    def _is_committed(self, xid: str) -> bool:
        with self._sessions() as session:
            status = session.scalar(select(func.pg_xact_status(cast(xid, _Xid8()))))
        if status == "in progress":
            raise Undecided("An earlier attempt at this transaction is not decided yet.")
        return status == "committed"


class _Xid8(UserDefinedType[str]):
    """PostgreSQL's type of a transaction's id."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"
