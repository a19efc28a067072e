"""The trainer's two pipes: commands come down stdin, reports go up what was stdout.

Imports nothing heavy, so that a trainer whose supervisor dies while torch is loading exits too.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from typing import BinaryIO, Literal

from .messages import Command, Exit, Report, Start, Stop, decode_command, encode

log = logging.getLogger(__name__)


class Outbox:
    """Writes reports to the descriptor that was stdout; stray prints go to stderr from now on."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)

    def send(self, report: Report) -> None:
        self._file.write(encode(report))
        self._file.flush()


class Inbox:
    """Reads commands on a thread of its own. The end of the stream ends the process, at once."""

    def __init__(self, stream: BinaryIO | None = None) -> None:
        self._stream = stream or sys.stdin.buffer
        self._waiting: queue.SimpleQueue[Start | Exit] = queue.SimpleQueue()
        self._stops: dict[str, Literal["cancel", "checkpoint"]] = {}
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Start | Exit:
        """The next job, or `Exit`; waits for it."""
        return self._waiting.get()

    def stop_reason(self, job_id: str) -> Literal["cancel", "checkpoint"] | None:
        """Why the job shall stop, if it shall."""
        return self._stops.get(job_id)

    def _read(self) -> None:
        # Nothing may be lost by leaving: checkpoints are complete or absent, reports unanswered.
        status = 1
        try:
            for line in self._stream:
                self._take(decode_command(line))
        except ValueError:
            log.exception("the supervisor speaks another language")
            status = 2
        finally:
            os._exit(status)

    def _take(self, message: Command) -> None:
        match message:
            case Start():
                self._stops.pop(message.job_id, None)  # meant for an earlier run of the job
                self._waiting.put(message)
            case Stop():
                if self._stops.get(message.job_id) != "cancel":
                    self._stops[message.job_id] = message.reason
            case Exit():
                self._waiting.put(message)
