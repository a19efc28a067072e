"""The database as the api uses it: one short transaction a call, none open while anything else happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session

from storage.database import async_engine, async_sessions

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    def __init__(self, url: str) -> None:
        self._engine = async_engine(url)
        self._sessions = async_sessions(self._engine)
        # The same connections, without a BEGIN and a COMMIT around each statement.
        reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = async_sessions(reading)

    async def run(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call one of storage's functions in a transaction of its own, and commit."""
        async with self._sessions.begin() as session:
            return await session.run_sync(function, *args, **kwargs)

    async def read(
        self, function: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, for functions whose statements need not see the same moment: half the round trips."""
        async with self._reading() as session:
            return await session.run_sync(function, *args, **kwargs)

    async def close(self) -> None:
        await self._engine.dispose()
