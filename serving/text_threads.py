"""Work on long texts, off the event loop and in fair turns: one text of a project at a time.

Parsing, rendering and tokenising take time that is linear in the text, up to some tenths of a second. A
project that sends many long texts waits for itself; another's text is next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

NUM_THREADS = 2
# What takes a millisecond or two is done at once: it would wait longer for a thread.
SHORT_BYTES = 4096

T = TypeVar("T")


class TextThreads:
    """Used on the event loop."""

    def __init__(self, name: str = "text") -> None:
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix=name)
        # In the order of their turns. A project is in one of the two while it has work.
        self._waiting: dict[str, deque[tuple[Callable[[], Any], asyncio.Future[Any]]]] = {}
        self._running: dict[str, asyncio.Future[Any]] = {}

    async def run(self, project: str, work: Callable[[], T], *, size_bytes: int) -> T:
        """What `work` gives or raises; of how long a text it is decides where it runs."""
        if size_bytes <= SHORT_BYTES:
            return work()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append((work, done))
        self._start()
        return await done

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Give free threads to the projects that have waited longest for their turn."""
        for project in [p for p in self._waiting if p not in self._running]:
            if len(self._running) >= NUM_THREADS:
                return
            queue = self._waiting.pop(project)
            while queue:
                work, done = queue.popleft()
                if not done.cancelled():
                    self._begin(project, work, done)
                    break
            if queue:
                # Behind the others, for its next turn.
                self._waiting[project] = queue

    def _begin(self, project: str, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._running[project] = running

        def finish(result: asyncio.Future[Any]) -> None:
            del self._running[project]
            error = None if result.cancelled() else result.exception()
            if done.cancelled() or result.cancelled():
                done.cancel()
            elif error is not None:
                done.set_exception(error)
            else:
                done.set_result(result.result())
            self._start()

        running.add_done_callback(finish)
