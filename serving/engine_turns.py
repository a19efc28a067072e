"""Engines that compute on the same cores: one step at a time, in the order in which they ask.

Two steps side by side would take as long as one after the other, and both their users would wait for both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class EngineTurns:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = 0
        self._at_turn = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for those who asked before."""
        with self._changed:
            mine = self._next
            self._next += 1
            while self._at_turn != mine:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._at_turn += 1
                self._changed.notify_all()
