"""Turns at asking the api: so many lines at a time, shared out evenly among the projects that have any."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LineTurns:
    """Lets at most `limit` lines through at a time, save that the first line of a project never waits.

    Each that ends makes room for a line of the project that has the fewest under way. Lives in one loop.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """The project that was served last is the last."""

    @asynccontextmanager
    async def turn(self, project_id: str) -> AsyncIterator[None]:
        line = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project_id, deque()).append(line)
        self._begin()
        try:
            await line
            yield
        finally:
            # One that was broken off before its turn is passed over when that comes.
            if not line.cancelled():
                self._under_way[project_id] -= 1
                self._begin()

    def _begin(self) -> None:
        """Let those begin that may."""
        while self._waiting:
            project_id = min(self._waiting, key=self._under_way.__getitem__)
            if self._under_way[project_id] and self._under_way.total() >= self._limit:
                return
            lines = self._waiting.pop(project_id)
            line = lines.popleft()
            if lines:
                self._waiting[project_id] = lines
            if not line.cancelled():
                line.set_result(None)
                self._under_way[project_id] += 1
