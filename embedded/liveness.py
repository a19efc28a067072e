"""Finds out whether a process that lives still answers: one that is frozen, or stuck, dies of nothing.

Silence is what counts, not slowness: a busy machine makes answers late, and any answer is a sign of life.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

SILENT_AFTER_S = 30.0
"""A process that answers nothing for so long is killed and started again."""
STARTED_WITHIN_S = 300.0
"""The same for one that has not been ready yet: it reads libraries and weights from a slow disk, maybe."""


@dataclass(frozen=True)
class HealthPage:
    """Answered by the event loop alone, with 200 once the process is ready."""

    host: str
    port: int
    path: str


@dataclass(frozen=True)
class SilenceLimits:
    """The times are those of production; tests pass shorter ones."""

    silent_after_s: float = SILENT_AFTER_S
    started_within_s: float = STARTED_WITHIN_S
    answer_timeout_s: float = 5.0
    interval_s: float = 2.0
    min_unanswered: int = 3
    """Requests in a row: one or two may have waited while this machine slept."""


class Liveness:
    """Whether one process still answers. It is asked from a thread, so that waiting for it holds up nobody."""

    def __init__(
        self, page: HealthPage, patience: SilenceLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._page = page
        self._patience = patience
        self._clock = clock
        self._has_ended = threading.Event()
        self.has_been_ready = False
        self.start_anew()

    def watch(self) -> None:
        """Ask again and again until `end`."""
        threading.Thread(target=self._run, name="liveness", daemon=True).start()

    def end(self) -> None:
        self._has_ended.set()

    def start_anew(self) -> None:
        """Forget the silence so far, which nobody was there to hear."""
        self._heard_at = self._clock()
        self._num_unanswered = 0

    def complaint(self) -> str | None:
        """Why the process should be killed; None if it should not."""
        patience = self._patience
        limit_s = patience.silent_after_s if self.has_been_ready else patience.started_within_s
        silent_s = self._clock() - self._heard_at
        if silent_s < limit_s or self._num_unanswered < patience.min_unanswered:
            return None
        return f"it did not answer GET {self._page.path} for {silent_s:.0f} s"

    def ask(self) -> None:
        """One request, and what follows from its answer."""
        http = HTTPConnection(
            self._page.host, self._page.port, timeout=self._patience.answer_timeout_s
        )
        try:
            http.request("GET", self._page.path)
            self.has_been_ready |= http.getresponse().status == 200
        except (TimeoutError, ConnectionRefusedError):
            self._num_unanswered += 1
            return
        except (OSError, HTTPException):
            # It closed the connection, which takes somebody alive; or this side could not ask.
            pass
        finally:
            http.close()
        self.start_anew()

    def _run(self) -> None:
        while not self._has_ended.wait(self._patience.interval_s):
            self.ask()
