"""Small jobs make way: once they are in the trainer they go on beside the worker's places, and another job is claimed.

What a job is like is known when its files have been read. So a worker claims no more than it has places for, and those of
its jobs whose steps others' can be computed with leave theirs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from dataset.tokenized import Dataset
from foundation import memory
from training.messages import SMALL_PASS_TOKENS, Start

MIN_AVAILABLE = 0.25
"""Of the memory that there is; with less, nobody makes way."""
JOIN_S = 15.0

log = structlog.get_logger()


def is_small(start: Start) -> bool:
    """Whether a usual step of the job is so small that others' may be computed with it."""
    config = start.config
    if not config.may_share or start.merges_init:
        return False
    counts = Dataset.open(Path(start.training_set)).statistics
    return config.batch_size * counts.num_tokens <= SMALL_PASS_TOKENS * counts.num_examples


class Aside:
    """Runs what is given to it on threads, as many as make way at the same time besides those that are waited for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changing = threading.Lock()
        self._threads: set[_Attempt] = set()
        """Those that have made way."""

    def run(self, work: Callable[[], bool]) -> bool:
        """What `work` gives or raises, or True as soon as it makes way."""
        attempt = _Attempt(work, self._leave)
        attempt.start()
        attempt.is_free.wait()
        if attempt.has_made_way:
            return True
        attempt.join()
        if attempt.error is not None:
            raise attempt.error
        return attempt.found

    def make_way(self) -> None:
        """Whoever waits for the work of this thread is free, if there is room beside."""
        attempt = threading.current_thread()
        if not isinstance(attempt, _Attempt):
            return
        with self._changing:
            if len(self._threads) >= self._most or not _has_memory():
                return
            self._threads.add(attempt)
        attempt.has_made_way = True
        attempt.is_free.set()

    def join(self) -> None:
        """Wait for those that have made way and were told to end."""
        deadline = time.monotonic() + JOIN_S
        for attempt in list(self._threads):
            attempt.join(max(deadline - time.monotonic(), 0))

    def _leave(self, attempt: _Attempt) -> None:
        with self._changing:
            self._threads.discard(attempt)


class _Attempt(threading.Thread):
    def __init__(self, work: Callable[[], bool], leave: Callable[[_Attempt], None]) -> None:
        super().__init__(name="job", daemon=True)
        self._work, self._leave = work, leave
        self.is_free = threading.Event()
        """Nobody need wait any more."""
        self.has_made_way = False
        self.found = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.found = self._work()
        except BaseException as error:
            self.error = error
            if self.has_made_way:
                log.exception("job.unexpected_error")
        finally:
            self._leave(self)
            self.is_free.set()


def _has_memory() -> bool:
    total, available = memory.total_bytes(), memory.available_bytes()
    # A GPU's is the trainer's to look at.
    if total is None or available is None or memory.has_gpu():
        return True
    return available >= MIN_AVAILABLE * total
