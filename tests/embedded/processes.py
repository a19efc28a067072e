"""Looking at processes from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def inside(directory: Path) -> list[int]:
    """Live processes that work in `directory` or name it on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            cwd = os.readlink(entry / "cwd")
        except OSError:
            continue  # it has ended
        if str(directory).encode() in line or cwd.startswith(str(directory)):
            found.append(int(entry.name))
    return found


def named(directory: Path, word: str) -> int:
    """The one process of `directory` whose command line begins with a program called `word`."""
    programs = {pid: _program(pid) for pid in inside(directory)}
    (pid,) = (pid for pid, program in programs.items() if program == word)
    return pid


def _program(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return ""  # it has ended
    return Path(os.fsdecode(line.partition(b" ")[0])).name


def wait_for(is_true: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.02)


@contextmanager
def keeper(directory: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A running `tests.embedded.keeper`, with the URLs of its PostgreSQL and its Valkey."""
    command = [sys.executable, "-m", "tests.embedded.keeper", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if line.startswith("ready "):
                    _, database_url, broker_url = line.split()
                    break
            else:
                raise AssertionError(f"it did not start: {said}")
            yield process, database_url, broker_url
        finally:
            process.kill()
