"""What is said to a process that makes one thing, `python -m modeling.transfers` for example, and what becomes of its news."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, cast

from errands import model_process
from errands.errands import Errands
from errands.model_process import ProcessDied

COMMAND = (sys.executable, "-m", "modeling.transfers")

Json = dict[str, Any]


class TransferRefused(Exception):
    """It cannot be done; code and message are for the transfer's owner."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Follower(Protocol):
    """The lease of who waits."""

    def check(self) -> None: ...
    def tell_progress(self, share: float) -> None: ...


def run(
    errands: Errands,
    lease: Follower,
    request: Json,
    folder: Path,
    *,
    command: Sequence[str] | None = None,
    log_name: str = "transfers",
) -> Json:
    """What it made, as it tells; its progress goes into the row.

    Raises TransferRefused, ProcessDied, LostLease and Stopped, and leaves no process behind.
    """
    news = model_process.news(
        errands, command or COMMAND, request, folder, log_name=log_name, check=lease.check
    )
    with closing(news):
        for each in news:
            if "failed" in each:
                raise TransferRefused(each["code"], each["failed"], each.get("param"))
            if "done" in each:
                return cast(Json, each["done"])
            lease.tell_progress(each["progress"])
    raise ProcessDied("the process that knows models ended without a result")
