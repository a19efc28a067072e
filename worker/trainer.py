"""The resident trainer: a process of its own at the other end of two pipes.

It stays up between jobs with bases loaded, and several jobs may be in it at a time. It leads its own session, so
that a signal to the worker does not reach it, and it exits by itself when its stdin closes, however the worker ends.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from foundation import leash
from foundation.settings import without_secrets
from training.messages import Command, Exit, Heartbeat, Report, decode_report, encode
from worker.endings import Setback

COMMAND = (sys.executable, "-m", "training")
MAX_LOG_BYTES = 10_000_000
FROZEN_S = 60
"""So long without a word, not even a heartbeat: the trainer hangs."""
START_S = 300
"""So long it may take to its first word, from a slow disk."""
AWAY_S = 5
"""Who did not look for so long, because it had no job or was itself frozen, counts the silence anew."""
_MAX_REPORTS = 1000
_EXIT_S = 3.0

log = structlog.get_logger()


class TrainerDied(Setback):
    """The process ended or had to be ended.

    If it `was_shared`, several jobs were in it, and which of them is to blame is not known.
    """

    def __init__(self, message: str, *, was_shared: bool = False) -> None:
        super().__init__(message)
        self.was_shared = was_shared


class _Channel:
    """What the trainer says of one job, or of none."""

    def __init__(self) -> None:
        self.reports: queue.Queue[Report | None] = queue.Queue(_MAX_REPORTS)
        self.looked_at = time.monotonic()


class Trainer:
    """`receive` belongs to one thread for each job; `send` and `kill` to any."""

    def __init__(self, log_file: Path, *, command: Sequence[str] = COMMAND) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        _rotate(log_file)
        with log_file.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
                start_new_session=True,
            )
        self.log_file = log_file
        self._channels = {"": _Channel()}
        self._listening = threading.Lock()
        self._sending = threading.Lock()
        self._has_spoken = False
        self._has_ended = False
        self._was_shared = False
        """When it ended."""
        self._heard_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, name="trainer-reports", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def num_jobs(self) -> int:
        return len(self._channels) - 1

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @contextlib.contextmanager
    def listening(self, job_id: str) -> Iterator[None]:
        """Within, what the trainer says of the job is kept for `receive`; elsewhere nobody cares."""
        # Replaced, not changed, for the reader looks at it meanwhile.
        with self._listening:
            self._channels = {**self._channels, job_id: _Channel()}
        try:
            yield
        finally:
            with self._listening:
                self._channels = {name: c for name, c in self._channels.items() if name != job_id}

    def send(self, command: Command) -> None:
        """Raises TrainerDied."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            with self._sending:
                stdin.write(encode(command))
                stdin.flush()
        except (OSError, ValueError) as error:
            raise self._death() from error

    def receive(self, timeout_s: float, job_id: str = "") -> list[Report]:
        """All that was reported of the job since the last call; waits for the first. Raises TrainerDied."""
        channel = self._channels[job_id]
        reports: list[Report] = []
        with contextlib.suppress(queue.Empty):
            while True:
                report = channel.reports.get(timeout=0 if reports else timeout_s)
                if report is None:
                    # For the next call, which raises: what came before its death still counts.
                    channel.reports.put(None)
                    if reports:
                        break
                    raise self._death()
                reports.append(report)
        # Behind a full queue nobody listened.
        if not reports:
            if self._has_ended:
                raise self._death()
            self._look_for_life(channel)
        return reports

    def _look_for_life(self, channel: _Channel) -> None:
        now = time.monotonic()
        if now - channel.looked_at > AWAY_S:
            self._heard_at = now
        channel.looked_at = now
        silence_s = now - self._heard_at
        if silence_s > (FROZEN_S if self._has_spoken else START_S):
            self.kill()
            raise self._blame(f"The trainer hung: no sign of life for {silence_s:.0f} s")

    def _read(self) -> None:
        """Reports from the pipe into the queues; a bounded queue holds a fast trainer back."""
        stdout = self._process.stdout
        assert stdout is not None
        try:
            with stdout:
                for line in stdout:
                    report = decode_report(line)
                    if not isinstance(report, Heartbeat):
                        self._pass_on(report)
                    self._heard_at, self._has_spoken = time.monotonic(), True
        except ValueError:
            log.exception("trainer.speaks_nonsense", pid=self.pid)
            self.kill()
        self._note_sharing()
        self._has_ended = True
        for channel in self._channels.values():
            # A full one is found to have ended behind what is in it.
            with contextlib.suppress(queue.Full):
                channel.reports.put_nowait(None)

    def _pass_on(self, report: Report) -> None:
        job_id = getattr(report, "job_id", "")
        while (channel := self._channels.get(job_id)) is not None:
            with contextlib.suppress(queue.Full):
                channel.reports.put(report, timeout=1.0)
                return
            # The others hear nothing meanwhile, which is not the trainer's fault.
            self._heard_at = time.monotonic()

    def _note_sharing(self) -> None:
        if not self._has_ended:
            self._was_shared |= self.num_jobs > 1

    def _blame(self, cause: str) -> TrainerDied:
        return TrainerDied(cause, was_shared=self._was_shared)

    def _death(self) -> TrainerDied:
        try:
            code = self._process.wait(timeout=_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._blame("The trainer closed its pipe")
        # Whoever notices first by a broken pipe finds out with the reader whether it was shared.
        self._reader.join(timeout=_EXIT_S)
        if code == -signal.SIGKILL:
            return self._blame("The trainer was killed; the machine may have run out of memory")
        if code < 0:
            return self._blame(f"The trainer died of {signal.Signals(-code).name}")
        return self._blame(f"The trainer ended with exit status {code}")

    def kill(self) -> None:
        """End the process and all that it started."""
        self._note_sharing()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_EXIT_S)

    def close(self) -> None:
        """Let it leave in good order, or end it. Safe to call when it is dead."""
        stdin = self._process.stdin
        assert stdin is not None
        if self.is_alive:
            with contextlib.suppress(TrainerDied):
                self.send(Exit())
        with contextlib.suppress(OSError), self._sending:
            stdin.close()
        try:
            self._process.wait(timeout=_EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(timeout=_EXIT_S)


def _environment() -> dict[str, str]:
    """The trainer watches its stdin without being told, and nothing in it phones home."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    inherited = without_secrets(os.environ)
    inherited.pop(leash.ENV, None)
    return {**inherited, **quiet}


def _rotate(log_file: Path) -> None:
    if log_file.exists() and log_file.stat().st_size > MAX_LOG_BYTES:
        log_file.replace(log_file.with_name(log_file.name + ".1"))
