"""Turns of requests with large bodies: one at a time of each project, a few of all projects.

A body of some megabytes is in memory several times over while it is read, changed and sent on. Who waits
for a turn has not been read yet, so what waits is in the client's memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

LARGE_BYTES = 256 * 1024
MAX_PROJECTS = 16


class LargeBodies:
    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = {}
        self._num_waiting: Counter[str] = Counter()
        self._all = asyncio.Semaphore(MAX_PROJECTS)

    @asynccontextmanager
    async def turn(self, request: Request, project_id: str) -> AsyncIterator[None]:
        """Inside, the request's body may be read and dealt with. Small ones do not wait."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) <= LARGE_BYTES:
            yield
            return
        self._num_waiting[project_id] += 1
        try:
            async with self._turns.setdefault(project_id, asyncio.Lock()), self._all:
                yield
        finally:
            self._num_waiting[project_id] -= 1
            if not self._num_waiting[project_id]:
                del self._num_waiting[project_id], self._turns[project_id]
