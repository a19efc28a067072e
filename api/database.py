"""The database as the api uses it: one short transaction a call, none open while anything else happens.

Each call has a deadline, kept on this side: a server that hangs keeps none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session

from storage.database import async_engine, async_sessions
from storage.schema import OtherSchema

P = ParamSpec("P")
T = TypeVar("T")

DEADLINE_S = 4.0
"""Of one call, the wait for a free connection included; then the request is answered 503."""
DEADLINE_IN_DOUBT_S = 1.0
"""Of those that come after one that passed its deadline: a hanging server shall not hold up a crowd."""
DOUBT_S = 3.0
UNREACHABLE = (OperationalError, InterfaceError, NoConnectionFree, OtherSchema)
"""What says nothing about a question, only that this database does not answer it now: ask again later."""
FAILED = (SQLAlchemyError, OtherSchema)
"""Whatever may come of a question to the database instead of an answer."""
CANCEL_GRACE_S = 1.0
"""How long the server has to break off what is no longer waited for, before its connection is closed."""


class NoAnswer(OperationalError):
    """The database has neither answered nor refused in time; what was asked may still be done."""

    def __init__(self, waited_s: float) -> None:
        super().__init__(None, None, TimeoutError(f"no answer within {waited_s} s"))


class Database:
    def __init__(self, url: str) -> None:
        self._engine = async_engine(url)
        self._sessions = async_sessions(self._engine)
        # The same connections, without a BEGIN and a COMMIT around each statement.
        reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = async_sessions(reading)
        self._in_doubt_until = 0.0
        self._breaking_off: set[asyncio.Task[None]] = set()

    async def run(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call one of storage's functions in a transaction of its own, and commit."""

        async def work() -> T:
            async with self._sessions.begin() as session:
                return await session.run_sync(function, *args, **kwargs)

        return await self._in_time(work())

    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `run`, for functions whose statements need not see the same moment: half the round trips."""

        async def work() -> T:
            async with self._reading() as session:
                return await session.run_sync(function, *args, **kwargs)

        return await self._in_time(work())

    async def close(self) -> None:
        if self._breaking_off:
            await asyncio.wait(self._breaking_off, timeout=2 * CANCEL_GRACE_S)
        await self._engine.dispose()

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        loop = asyncio.get_running_loop()
        is_in_doubt = loop.time() < self._in_doubt_until
        deadline_s = DEADLINE_IN_DOUBT_S if is_in_doubt else DEADLINE_S
        # A task of its own, because the driver takes up to ten seconds to let go of a hanging server
        # when it is cancelled.
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task}, timeout=deadline_s)
        except asyncio.CancelledError:
            self._break_off(task)
            raise
        if task.done():
            self._in_doubt_until = 0.0
            return task.result()
        self._break_off(task)
        if not is_in_doubt:
            # Does not add up: a server that is only slow gets a whole deadline every few seconds.
            self._in_doubt_until = loop.time() + DOUBT_S
        raise NoAnswer(deadline_s)

    def _break_off(self, task: asyncio.Task[T]) -> None:
        breaking_off = asyncio.create_task(_cancel(task))
        self._breaking_off.add(breaking_off)
        breaking_off.add_done_callback(self._breaking_off.discard)


async def _cancel(task: asyncio.Task[T]) -> None:
    """Ask the server to stop; if that hangs, too, close the connection. The pool opens another."""
    for _ in range(2):
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=CANCEL_GRACE_S)
        if done:
            # Looked at, so that nobody complains that it was not.
            _ = task.cancelled() or task.exception()
            return
