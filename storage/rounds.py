"""Something that is done again every few seconds, on a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

log = structlog.get_logger()


class Rounds(ABC):
    """Runs between `start` and `stop`, which may be called in a signal handler."""

    name: str
    interval_s: float

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()

    @abstractmethod
    def once(self) -> None:
        """One round. What it cannot do, the next one finds again."""

    def _run(self) -> None:
        while True:
            try:
                self.once()
            except Exception as error:
                # The database, the broker or the blob store is away.
                log.warning(f"{self.name}.failed", error=repr(error))
            if self._is_over.wait(self.interval_s):
                return


def try_lock(session: Session, lock: int) -> bool:
    """Take the lock until the end of the transaction; False when another process has it."""
    taken = session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": lock})
    return bool(taken)
