"""A process that knows models or training files, at the other end of a pipe: `python -m modeling.transfers`, for example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Protocol

import structlog

from errands.errands import Errands
from foundation import leash
from foundation.settings import without_secrets
from storage.leases import Stopped

COMMAND = (sys.executable, "-m", "modeling.transfers")
POLL_S = 0.1

Json = dict[str, Any]

log = structlog.get_logger()


class TransferRefused(Exception):
    """It cannot be done; code and message are for the transfer's owner."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class ProcessDied(Exception):
    """It ended without a word, or was ended."""


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
    command: Sequence[str] = COMMAND,
    log_name: str = "transfers",
) -> Json:
    """What it made, as it tells; its progress goes into the row.

    Raises TransferRefused, ProcessDied, LostLease and Stopped, and leaves no process behind.
    """
    asked = folder / "request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    log_file = errands.settings.data_dir / "logs" / f"{log_name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**without_secrets(os.environ), leash.ENV: "1", "TMPDIR": str(folder)},
        )
    news: Queue[Json | None] = Queue()
    reader = threading.Thread(target=_read, args=(process, news), daemon=True)
    reader.start()
    try:
        return _follow(errands, lease, news)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdin is not None
        process.stdin.close()


def _follow(errands: Errands, lease: Follower, news: Queue[Json | None]) -> Json:
    while True:
        lease.check()
        if errands.is_stopping.is_set():
            raise Stopped
        try:
            each = news.get(timeout=POLL_S)
        except Empty:
            continue
        if each is None:
            raise ProcessDied("the process that knows models ended without a result")
        if "failed" in each:
            raise TransferRefused(each["code"], each["failed"], each.get("param"))
        if "done" in each:
            done: Json = each["done"]
            return done
        lease.tell_progress(each["progress"])


def _read(process: subprocess.Popen[bytes], news: Queue[Json | None]) -> None:
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                news.put(json.loads(line))
    except ValueError:
        # Nothing that comes behind nonsense can be trusted.
        log.exception("transfer.process_speaks_nonsense", pid=process.pid)
    news.put(None)
