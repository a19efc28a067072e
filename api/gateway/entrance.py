"""The entrance to the inference servers: a few requests of each project at a time.

A request is in the entrance from when its body is read until the head of its reply is there. That takes
little, but the event loop serves whoever is ready in turn: behind a hundred requests of one project that
come in the same moment, another's would be as slow as if it were the last of them. Replies on their way back
are not counted.

Who is refused for want of room stays a moment longer. Clients that come again at once, dozens of them in step,
are so dealt with one after the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MAX_OF_PROJECT = 8
REFUSED_S = 0.25
"""So much later somebody hears that there is no room. The refusal says to come again after a second."""


class Entrance:
    def __init__(self) -> None:
        self._doors: dict[str, asyncio.Semaphore] = {}
        self._num_of_project: Counter[str] = Counter()
        """Those inside and those that wait."""

    @asynccontextmanager
    async def turn(self, project_id: str) -> AsyncIterator[None]:
        self._num_of_project[project_id] += 1
        try:
            async with self._doors.setdefault(project_id, asyncio.Semaphore(MAX_OF_PROJECT)):
                yield
        finally:
            self._num_of_project[project_id] -= 1
            if not self._num_of_project[project_id]:
                del self._num_of_project[project_id], self._doors[project_id]


async def hold_back() -> None:
    """What a refusal for want of room waits for, in the entrance."""
    await asyncio.sleep(REFUSED_S)
