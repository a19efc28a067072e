"""A child process ends with its parent, also when the parent is killed with SIGKILL.

The parent holds the writing end of the child's stdin and never writes. When the parent dies, however
it dies, the system closes that end and the child reads EOF. (PR_SET_PDEATHSIG is no substitute: it
fires when the *thread* that started the child ends.)
"""

from __future__ import annotations

import os
import sys
import threading

ENV = "LUTHIER_DEATH_PIPE"


def exit_with_parent() -> None:
    """Watch stdin if the parent asked for it by setting LUTHIER_DEATH_PIPE=1."""
    if os.environ.get(ENV) == "1":
        threading.Thread(target=_wait, name="death-pipe", daemon=True).start()


def _wait() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os._exit(1)
