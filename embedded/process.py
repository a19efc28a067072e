"""One child process: how it is described, spawned and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from foundation.errors import LuthierError

_LAUNCHER = Path(__file__).with_name("launcher.py")


class CannotStart(LuthierError):
    """Something on this machine keeps the stack from starting; the message says what to do."""


@dataclass(frozen=True)
class Command:
    """What to run. SIGTERM stops it, and so does the end of its stdin."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    """The whole environment; None for the parent's own."""
    cwd: Path | None = None


def supervised(
    name: str,
    argv: Sequence[str],
    *,
    cwd: Path,
    uid: int | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    orphan_signal: signal.Signals = signal.SIGTERM,
) -> Command:
    """A `Command` for a foreign server: its launcher watches the parent on its behalf.

    The server gets a bare environment: the parent's may hold keys that are none of its business.
    """
    spec = {
        "argv": list(argv),
        "cwd": str(cwd),
        "uid": uid,
        "stop_signal": int(stop_signal),
        "orphan_signal": int(orphan_signal),
    }
    launch = [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(spec)]
    return Command(name, launch, {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, cwd)


def spawn(command: Command, log: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with a pipe as stdin that only this process holds."""
    return subprocess.Popen(
        list(command.argv),
        env=command.env,
        cwd=command.cwd,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        start_new_session=True,
    )


def wait_until(
    is_ready: Callable[[], bool], child: subprocess.Popen[bytes], timeout_s: float = 30.0
) -> None:
    """Return once the child is ready; CannotStart when it ends before or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        if child.poll() is not None:
            raise CannotStart("the server ended while starting")
        if time.monotonic() > deadline:
            raise CannotStart(f"the server does not answer after {timeout_s:.0f} s")
        time.sleep(0.02)


def stop(child: subprocess.Popen[bytes], grace_s: float = 10.0) -> int:
    """SIGTERM, up to `grace_s`, then SIGKILL to the whole process group; returns the exit status."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill(child)
    if child.stdin:
        child.stdin.close()
    return child.wait()


def kill(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the child and what it started in its group, unless it has ended."""
    if child.poll() is None:
        kill_group(child)


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to what is left of the child's group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
