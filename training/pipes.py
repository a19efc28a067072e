"""The trainer's two pipes: commands and answers come down stdin, reports and requests go up what was stdout.

Imports nothing heavy, so that a trainer whose supervisor dies while torch is loading exits too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from .messages import (
    Answer,
    Command,
    Exit,
    Heartbeat,
    Question,
    Reply,
    Report,
    Request,
    Start,
    Stop,
    StopReason,
    decode_command,
    encode,
)

BEAT_S = 5.0
STUCK_S = 1800.0
"""No micro-batch, load or checkpoint takes so long; the main thread hangs."""

log = logging.getLogger(__name__)


class JobStopped(Exception):
    """Raised inside a job that was told to stop."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Link:
    """Both pipes, for the main thread. Commands are read and heartbeats sent on threads of their own.

    A process that is frozen sends no heartbeat. One whose main thread is stuck stops sending them: the main
    thread must call some method now and then, and does so between micro-batches, or wait in one.
    """

    def __init__(
        self,
        stream: BinaryIO | None = None,
        *,
        beat_s: float = BEAT_S,
        stuck_s: float = STUCK_S,
    ) -> None:
        self._out = os.fdopen(os.dup(1), "wb")
        # Stray prints go to stderr from now on.
        os.dup2(2, 1)
        self._sending = threading.Lock()
        self._pulse = _Pulse(lambda: self._write(Heartbeat()), beat_s, stuck_s)
        self._in = stream or sys.stdin.buffer
        self._waiting: queue.SimpleQueue[Start | Exit] = queue.SimpleQueue()
        self._stops: dict[str, StopReason] = {}
        self._ids = itertools.count(1)
        self._answers: dict[int, Reply | None] = {}
        """By request; None until the answer is there."""
        self._news = threading.Condition()
        """Of an answer or a stop."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def send(self, report: Report) -> None:
        with self._pulse.waiting():
            self._write(report)

    def next(self) -> Start | Exit:
        """The next job, or `Exit`; waits for it."""
        with self._pulse.waiting():
            return self._waiting.get()

    def poll(self) -> Start | Exit | None:
        """As `next`, but None where it would have to wait."""
        self._pulse.mark()
        with contextlib.suppress(queue.Empty):
            return self._waiting.get_nowait()
        return None

    def stop_reason(self, job_id: str) -> StopReason | None:
        """Why the job shall stop, if it shall."""
        self._pulse.mark()
        return self._stops.get(job_id)

    def ask(self, job_id: str, question: Question) -> Reply:
        """What the supervisor answers; waits as long as it takes. Raises JobStopped."""
        number = next(self._ids)
        self._answers[number] = None
        self.send(Request(id=number, job_id=job_id, question=question))
        try:
            with self._pulse.waiting(), self._news:
                while (reply := self._answers[number]) is None:
                    if (reason := self._stops.get(job_id)) is not None:
                        raise JobStopped(reason)
                    self._news.wait()
                return reply
        finally:
            del self._answers[number]

    def _write(self, report: Report) -> None:
        with self._sending:
            self._out.write(encode(report))
            self._out.flush()

    def _read(self) -> None:
        # Nothing may be lost by leaving: checkpoints are complete or absent, reports unanswered.
        status = 1
        try:
            for line in self._in:
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
            case Exit():
                self._waiting.put(message)
            case Stop():
                with self._news:
                    if self._stops.get(message.job_id) != "cancel":
                        self._stops[message.job_id] = message.reason
                    self._news.notify_all()
            case Answer():
                with self._news:
                    # Who asked may have been stopped since.
                    if message.id in self._answers:
                        self._answers[message.id] = message.reply
                        self._news.notify_all()


class _Pulse:
    """Beats as long as the main thread gets on, or waits for what others do."""

    def __init__(self, beat: Callable[[], None], beat_s: float, stuck_s: float) -> None:
        self._beat = beat
        self._beat_s = beat_s
        self._stuck_s = stuck_s
        self._is_waiting = False
        self._marked_at = time.monotonic()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def mark(self) -> None:
        """The main thread came by."""
        self._marked_at = time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        self._is_waiting = True
        try:
            yield
        finally:
            self.mark()
            self._is_waiting = False

    def _run(self) -> None:
        was_stuck = False
        # The supervisor may be gone; who reads the commands sees that and ends the process.
        with contextlib.suppress(OSError):
            while True:
                is_stuck = not self._is_waiting and self._idle_s() > self._stuck_s
                if is_stuck and not was_stuck:
                    log.error("the main thread is stuck since %.0f s", self._idle_s())
                    faulthandler.dump_traceback()
                if not is_stuck:
                    self._beat()
                was_stuck = is_stuck
                time.sleep(self._beat_s)

    def _idle_s(self) -> float:
        return time.monotonic() - self._marked_at
