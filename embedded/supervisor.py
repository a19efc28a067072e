"""Keeps children running: restarts what dies or answers nobody, and stops all of them in order.

Everything happens in the thread that calls; signal handlers only leave a note.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import FrameType

from . import process
from .liveness import HealthPage, Liveness, SilenceLimits
from .logs import ChildLog, Console
from .process import CannotStart, Command

_TICK_S = 0.1
_GAP_S = 5.0
"""Between two ticks: this process was stopped itself, with the whole machine, maybe."""
_SAY_AFTER_S = 15.0
_TRIES_AT_START = 3
"""A child that dies so often before the stack was ready keeps it from starting."""


class AskedToStop(BaseException):
    """A signal asked for the end while something was waited for."""


class StopPhase(IntEnum):
    """Who is told to stop together; a later phase begins when the earlier ones are gone."""

    CLIENTS = 0
    """The worker, which writes a checkpoint, and the api, which finishes its replies."""
    ENGINES = 1
    """The inference servers, which the api's last replies come from."""
    SERVERS = 2
    """PostgreSQL and Valkey, which all others use."""


# Seconds after the signal at which SIGKILL ends each phase; a service manager expects the end by 10.
_DEADLINES_S = {StopPhase.CLIENTS: 6.0, StopPhase.ENGINES: 7.5, StopPhase.SERVERS: 9.5}


@dataclass
class _Child:
    command: Command
    phase: StopPhase
    niceness: int
    log: ChildLog
    page: HealthPage | None = None
    liveness: Liveness | None = None
    """Of the process, if it has a page to ask for."""
    complaint: str | None = None
    """Why it was killed from here."""
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    num_crashes: int = 0
    """In a row; a healthy minute forgets them."""


@dataclass
class Supervisor:
    """The times are those of production; tests pass shorter ones."""

    log_dir: Path
    console: Console
    first_backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    healthy_after_s: float = 60.0
    stop_deadlines_s: dict[StopPhase, float] = field(default_factory=lambda: _DEADLINES_S)
    patience: SilenceLimits = field(default_factory=SilenceLimits)
    clock: Callable[[], float] = time.monotonic
    _ticked_at: float = field(init=False, default=0.0)
    _children: list[_Child] = field(init=False, default_factory=list)
    # Plain flags: a signal handler that takes an Event's lock can find its own thread holding it.
    _is_stopping: bool = field(init=False, default=False)
    _is_killing: bool = field(init=False, default=False)

    def start(
        self,
        command: Command,
        phase: StopPhase,
        *,
        niceness: int = 0,
        page: HealthPage | None = None,
    ) -> None:
        """Spawn a child and look after it from now on; one with a page is killed if it falls silent."""
        child = _Child(command, phase, niceness, self._log(command.name), page)
        self._children.append(child)
        self._spawn(child)

    def run_to_end(self, command: Command) -> None:
        """Run a program that ends by itself. Raises CannotStart when it fails, AskedToStop."""
        log = self._log(command.name)
        running = process.spawn(command, subprocess.PIPE)
        reader = log.follow(running)
        try:
            while running.poll() is None:
                self._tick()
        finally:
            process.stop(running, grace_s=2)
            reader.join()
        if running.returncode:
            raise CannotStart(f"{command.name} failed ({log.path}):\n{log.last_words()}")

    def wait_until(self, is_true: Callable[[], bool], what: str, timeout_s: float = 1e9) -> None:
        """Look after the children until `is_true`.

        Raises AskedToStop, and CannotStart after `timeout_s` or when a child will not start.
        """
        began_at = time.monotonic()
        is_silent = True
        while not is_true():
            waited_s = time.monotonic() - began_at
            if waited_s > timeout_s:
                raise CannotStart(f"gave up waiting for {what} after {timeout_s:.0f} s")
            if is_silent and waited_s > _SAY_AFTER_S:
                is_silent = False
                self.console.hears_children = True
                self.console.say(f"Still waiting for {what}; the logs are in {self.log_dir}")
            for child in self._children:
                if child.num_crashes >= _TRIES_AT_START:
                    raise CannotStart(
                        f"{child.command.name} does not start ({child.log.path}):\n"
                        f"{child.log.last_words()}"
                    )
            self._tick()

    def run(self) -> None:
        """Look after the children until a signal asks for the end."""
        with suppress(AskedToStop):
            while True:
                self._tick()

    def stop(self) -> None:
        """Stop all children, phase by phase; a second SIGINT kills what is left at once."""
        self._is_stopping = True
        began_at = time.monotonic()
        self.console.hears_children = False
        for phase in StopPhase:
            live = [c.process for c in self._children if c.phase is phase and c.process]
            for running in live:
                running.terminate()
            deadline = began_at + self.stop_deadlines_s[phase]
            while any(running.poll() is None for running in live):
                if self._is_killing or time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            for running in live:
                process.kill(running)
        for child in self._children:
            self._clear_away(child)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGHUP ask for the end; SIGINT again asks for it now."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._is_killing |= number == signal.SIGINT and self._is_stopping
        self._is_stopping = True

    def _tick(self) -> None:
        if self._is_stopping:
            raise AskedToStop
        time.sleep(_TICK_S)
        now = self.clock()
        was_away = now - self._ticked_at > _GAP_S
        self._ticked_at = now
        for child in self._children:
            if child.process is None:
                if now >= child.restart_at:
                    self._spawn(child)
            elif child.process.poll() is not None:
                self._note_crash(child, now)
            elif child.liveness is not None:
                if was_away:
                    child.liveness.start_anew()
                self._end_if_silent(child, child.liveness)

    def _end_if_silent(self, child: _Child, liveness: Liveness) -> None:
        if child.complaint is None and child.process is not None:
            child.complaint = liveness.complaint()
            if child.complaint is not None:
                process.kill(child.process)  # the next tick finds it dead

    def _note_crash(self, child: _Child, now: float) -> None:
        assert child.process is not None
        status = child.process.returncode
        was_ready = child.liveness is None or child.liveness.has_been_ready
        if was_ready and now - child.started_at >= self.healthy_after_s:
            child.num_crashes = 0
        child.num_crashes += 1
        delay_s = min(self.max_backoff_s, self.first_backoff_s * 2 ** (child.num_crashes - 1))
        child.restart_at = now + delay_s
        self._clear_away(child)
        reason = f"killed: {child.complaint}" if child.complaint else _reason(status)
        self.console.say(
            f"{child.command.name} ended ({reason}); starting it again in {delay_s:g} s. "
            f"Its log: {child.log.path}"
        )

    def _spawn(self, child: _Child) -> None:
        child.started_at = self.clock()
        child.process = process.spawn(child.command, subprocess.PIPE)
        child.reader = child.log.follow(child.process)
        child.complaint = None
        if child.page is not None:
            child.liveness = Liveness(child.page, self.patience, self.clock)
            child.liveness.watch()
        if child.niceness:
            with suppress(ProcessLookupError):  # it may have ended already
                os.setpriority(os.PRIO_PROCESS, child.process.pid, child.niceness)

    def _clear_away(self, child: _Child) -> None:
        if child.process is None:
            return
        if child.liveness is not None:
            child.liveness.end()
        # What it left behind in its group goes, too; nobody else holds the other end of its pipes.
        process.kill_group(child.process)
        process.stop(child.process)
        if child.reader is not None:
            child.reader.join(timeout=1)
        child.process = None

    def _log(self, name: str) -> ChildLog:
        return ChildLog(name, self.log_dir / f"{name}.log", self.console)


def _reason(status: int) -> str:
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}"
