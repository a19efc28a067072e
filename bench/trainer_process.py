"""A trainer as a worker starts it, and what it reports of its jobs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.messages import (
    Failed,
    Finished,
    Heartbeat,
    Ready,
    Report,
    Start,
    decode_report,
    encode,
)

MB = 1_000_000
RESIDENT_BYTES = 8 << 30


class TrainerProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        while not isinstance(self.next_report(), Ready):
            pass

    @property
    def peak_mb(self) -> float:
        """The highest resident size until now."""
        return peak_mb(self._process.pid)

    def start(self, start: Start) -> None:
        assert self._process.stdin
        self._process.stdin.write(encode(start))
        self._process.stdin.flush()

    def next_report(self) -> Report:
        assert self._process.stdout
        while isinstance(report := decode_report(self._process.stdout.readline()), Heartbeat):
            pass
        if isinstance(report, Failed):
            raise SystemExit(f"a job failed: {report}")
        return report

    def train(self, *starts: Start) -> None:
        """Jobs at a time, until all have ended."""
        for start in starts:
            self.start(start)
        num_ended = 0
        while num_ended < len(starts):
            num_ended += isinstance(self.next_report(), Finished)


@contextmanager
def trainer() -> Iterator[TrainerProcess]:
    """Killed at the end, whatever it is at."""
    command = [sys.executable, "-m", "training", "--resident-bytes", str(RESIDENT_BYTES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield TrainerProcess(process)
        finally:
            process.kill()


def peak_mb(pid: int) -> float:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak
    return int(peak[1]) * 1024 / MB
