"""What the children say: all of it into DATA/logs/<name>.log, what a person should see to the console."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import IO, TextIO

MAX_LOG_BYTES = 16 << 20
_MAX_LINE_BYTES = 64 << 10
_MAX_CONSOLE_CHARACTERS = 300
_LEVELS = ("warning", "error", "critical")
# Python's logging, its tracebacks, and PostgreSQL (which also calls a start in progress fatal).
_ALARMING = re.compile(
    r"^(WARNING|ERROR|CRITICAL)\b|^Traceback |\b(FATAL|PANIC):(?!  the database system is)"
)


class Console:
    """Whole lines, from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.hears_children = True
        """Off while starting and stopping: what children complain about then is of no interest."""
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        # A terminal that went away is no reason to stop serving; the files have everything.
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


class ChildLog:
    """The log of one child, across its restarts."""

    def __init__(self, name: str, path: Path, console: Console) -> None:
        self.name = name
        self.path = path
        self._console = console
        self._tail: deque[str] = deque(maxlen=5)

    def follow(self, child: subprocess.Popen[bytes]) -> threading.Thread:
        """Copy the child's output until it ends, in a thread."""
        assert child.stdout is not None
        thread = threading.Thread(
            target=self._copy, args=(child.stdout,), name=f"log-{self.name}", daemon=True
        )
        thread.start()
        return thread

    def last_words(self) -> str:
        """The end of what the child said."""
        return "\n".join(f"  {line[:_MAX_CONSOLE_CHARACTERS]}" for line in self._tail)

    def _copy(self, stream: IO[bytes]) -> None:
        file = self._open()
        with stream:
            while line := stream.readline(_MAX_LINE_BYTES):
                if file.tell() + len(line) > MAX_LOG_BYTES:
                    file.close()
                    self.path.replace(self.path.with_name(self.path.name + ".1"))
                    file = self._open()
                # A full disk must not stop the child, whose pipe would fill up.
                with contextlib.suppress(OSError):
                    file.write(line)
                self._look_at(line.decode(errors="replace").rstrip())
        file.close()

    def _open(self) -> IO[bytes]:
        return self.path.open("ab", buffering=0)

    def _look_at(self, line: str) -> None:
        if not line:
            return
        self._tail.append(line)
        if self._console.hears_children and (text := _alarm(line)):
            self._console.say(f"{self.name}: {text[:_MAX_CONSOLE_CHARACTERS]}")


def _alarm(line: str) -> str | None:
    """The line as a person wants to read it, if it is one that a person should."""
    if not line.startswith("{"):
        return line if _ALARMING.search(line) else None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if entry.get("level") not in _LEVELS:
        return None
    details = " ".join(
        f"{name}={value}"
        for name, value in entry.items()
        if name not in ("event", "level", "timestamp", "exception")
    )
    return f"{entry['level']}: {entry.get('event', '')} {details}".rstrip()
