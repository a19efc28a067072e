"""Runs one server that cannot notice its parent's death by itself, and stops it when the parent dies.

    python -I launcher.py '{"argv": […], "cwd": …, "uid": …, "stop_signal": …, "orphan_signal": …}'

The parent holds the other end of stdin open. SIGTERM here becomes `stop_signal` there; the end of
stdin becomes `orphan_signal`, and SIGKILL three seconds later. This file is run by its path and
imports nothing but the standard library, so that it starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType

ORPHAN_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1


def main(specification: str) -> int:
    """Run the server to its end; the exit status is the server's, 128 + n after signal n."""
    spec = json.loads(specification)
    orphan_signal = signal.Signals(spec["orphan_signal"])
    stop_signal = signal.Signals(spec["stop_signal"])
    uid: int | None = spec["uid"]
    server = subprocess.Popen(
        spec["argv"],
        cwd=spec["cwd"],
        stdin=subprocess.DEVNULL,
        # Out of the launcher's group: who kills that group kills no database.
        start_new_session=True,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        preexec_fn=_die_with_launcher(orphan_signal),
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.send_signal(stop_signal)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_at_eof, args=(server, orphan_signal), daemon=True).start()
    status = server.wait()
    return status if status >= 0 else 128 - status


def _die_with_launcher(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    # For the day the launcher itself is killed. The signal follows the death of the thread that
    # spawned the server: here the main thread, which lives as long as the process.
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    launcher = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGKILL)

    return prepare


def _stop_at_eof(server: subprocess.Popen[bytes], orphan_signal: signal.Signals) -> None:
    # SIGTERM has to wake the main thread, which otherwise sleeps until the server ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while os.read(0, 4096):
        continue
    server.send_signal(orphan_signal)
    try:
        server.wait(ORPHAN_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
