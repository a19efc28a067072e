"""One child process: how it is described, spawned and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from storage.errors import LuthierError

_LAUNCHER = Path(__file__).with_name("launcher.py")


class CannotStart(LuthierError):
    """Something on this machine keeps the stack from starting; the message says what to do."""


@dataclass(frozen=True)
class Command:
    """What to run. SIGTERM stops it, and so does the end of its stdin."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the parent's own environment."""
    cwd: Path | None = None


def supervised(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path,
    uid: int | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    orphan_signal: signal.Signals = signal.SIGTERM,
) -> Command:
    """A `Command` for a foreign server: its launcher watches the parent on its behalf."""
    spec = {
        "argv": list(argv),
        "cwd": str(cwd),
        "uid": uid,
        "stop_signal": int(stop_signal),
        "orphan_signal": int(orphan_signal),
    }
    launch = [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(spec)]
    return Command(name, launch, env or {}, cwd)


def spawn(command: Command, log: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with a pipe as stdin that only this process holds."""
    return subprocess.Popen(
        list(command.argv),
        env={**os.environ, **command.env},
        cwd=command.cwd,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT if log is not None else None,
        start_new_session=True,
    )


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
    """SIGKILL to the child's process group."""
    if child.poll() is None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended between the two lines
