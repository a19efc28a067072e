"""A person at a terminal: the command runs in a process of its own, behind a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from tests.client.fake_api import KEY, FakeApi

CLIENT = Path(__file__).parents[3] / "client"
DEADLINE_S = 30.0
# At a terminal Ctrl-C works, even where these tests were started by something that ignores it.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from luthier.cli import app
app()
"""


class Terminal:
    def __init__(self, api: FakeApi, *args: str) -> None:
        self.output = ""
        self._deadline = time.monotonic() + DEADLINE_S
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *args],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={
                **os.environ,
                "PYTHONPATH": str(CLIENT),
                "LUTHIER_BASE_URL": api.base_url,
                "LUTHIER_API_KEY": KEY,
                "TERM": "xterm",
                "COLUMNS": "120",
            },
        )
        os.close(slave)

    def enter(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does; the pseudo-terminal is not the one that controls the process."""
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text: str) -> None:
        """Read on until `text` has appeared since the last wait."""
        start = len(self.output)
        while text not in self.output[start:]:
            assert self._read(), f"{text!r} never appeared in {self.output!r}"

    def exit_code(self) -> int:
        while self._read():
            continue
        return self._process.wait(timeout=DEADLINE_S)

    def _read(self) -> bool:
        left_s = max(0.0, self._deadline - time.monotonic())
        if not select.select([self._master], [], [], left_s)[0]:
            return False
        try:
            piece = os.read(self._master, 4096)
        except OSError:  # how Linux reports that the other end has closed
            return False
        self.output += piece.decode(errors="replace")
        return bool(piece)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
