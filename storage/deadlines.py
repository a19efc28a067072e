"""Deadlines for what the database is asked by threads: a server that hangs keeps nobody for ever.

A backend that is frozen, or waits for a dead disk, acknowledges every packet and answers none, so no limit of
the server or of the network ends the wait. The api, which waits in tasks, has its own (`api/database.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")

ANSWER_TIMEOUT_S = 20.0
"""A server that is alive ends a statement before, by its own time limit."""

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def answered_by(deadline: float) -> Iterator[None]:
    """What is asked inside fails if it has no answer by then, on the monotonic clock."""
    before = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(before)


class Connection(psycopg.Connection[Any]):
    """Closes when an answer does not come in time, which is an OperationalError."""

    def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        left_s = max(0.0, _deadline.get() - time.monotonic())
        options.setdefault("timeout", min(ANSWER_TIMEOUT_S, left_s))
        try:
            return super().wait(gen, *arguments, **options)
        except psycopg.errors._WaitTimeout:
            # What the server is at is unknown from here on: nothing more may be said to it.
            self.pgconn.finish()
            raise psycopg.OperationalError("The database did not answer in time.") from None
