"""Turns of requests with large bodies: one at a time of each project, a few of all projects.

A body of some megabytes is in memory several times over while it is read, changed and sent on. Who waits
for a turn has not been read yet, so what waits is in the client's memory. A body that arrives has its
turn already, so no more of them are in memory; but it must be quick if others wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Request

from foundation.errors import InvalidRequest

LARGE_BYTES = 256 * 1024
MAX_PROJECTS = 16
ARRIVAL_S = 10.0
"""How long a body may take to arrive while others wait for its turn to end."""


class LargeBodies:
    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = {}
        self._num_of_project: Counter[str] = Counter()
        """Those that have a turn or wait for one."""
        self._all = asyncio.Semaphore(MAX_PROJECTS)
        self._num_waiting_for_all = 0
        self._arriving: dict[asyncio.Timeout, tuple[str, float]] = {}
        """Whose bodies these are, and when they must have come if others wait."""

    @asynccontextmanager
    async def turn(self, request: Request, project_id: str) -> AsyncIterator[None]:
        """Inside, the request's body may be dealt with, after it has been read within `arrival`."""
        if is_small(request):
            yield
            return
        with self._counted(project_id):
            async with self._turns.setdefault(project_id, asyncio.Lock()):
                await self._wait_for_all()
                try:
                    yield
                finally:
                    self._all.release()

    @asynccontextmanager
    async def arrival(self, request: Request, project_id: str) -> AsyncIterator[None]:
        """Inside a turn: the body may be read. Raises InvalidRequest if it comes too slowly."""
        if is_small(request):
            yield
            return
        until_s = asyncio.get_running_loop().time() + ARRIVAL_S
        try:
            async with asyncio.timeout(None) as limit:
                self._arriving[limit] = project_id, until_s
                self._set_limits()
                try:
                    yield
                finally:
                    del self._arriving[limit]
        except TimeoutError:
            raise InvalidRequest(
                f"The request's body came too slowly: other large ones wait, and it did not come "
                f"within {ARRIVAL_S:g} seconds. Send it again, or send less than {LARGE_BYTES} "
                "bytes.",
                status=408,
            ) from None

    @contextmanager
    def _counted(self, project_id: str) -> Iterator[None]:
        self._num_of_project[project_id] += 1
        self._set_limits()
        try:
            yield
        finally:
            self._num_of_project[project_id] -= 1
            if not self._num_of_project[project_id]:
                del self._num_of_project[project_id], self._turns[project_id]
            self._set_limits()

    async def _wait_for_all(self) -> None:
        self._num_waiting_for_all += 1
        self._set_limits()
        try:
            await self._all.acquire()
        finally:
            self._num_waiting_for_all -= 1
            self._set_limits()

    def _set_limits(self) -> None:
        """Called whenever somebody begins to wait or ends: only then must others be quick."""
        for limit, (project_id, until_s) in self._arriving.items():
            if not limit.expired():
                is_waited_for = self._num_waiting_for_all or self._num_of_project[project_id] > 1
                limit.reschedule(until_s if is_waited_for else None)


def is_small(request: Request) -> bool:
    declared = request.headers.get("content-length", "")
    return declared.isdecimal() and int(declared) <= LARGE_BYTES
