"""The processes that know models, at the other end of a pipe: errands know none, so they start one and hear what it tells.

It is asked by a file of JSON, tells in lines of JSON, and ends with whoever started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import structlog

from errands.errands import Errands
from foundation import leash
from foundation.settings import without_secrets
from storage.leases import Stopped

POLL_S = 0.1

Json = dict[str, Any]

log = structlog.get_logger()


class ProcessDied(Exception):
    """It ended without a word, or was ended."""


def news(
    errands: Errands,
    command: Sequence[str],
    request: Json,
    folder: Path,
    *,
    log_name: str,
    check: Callable[[], None],
) -> Generator[Json]:
    """What the process tells, for as long as it is listened to. No process is left once the iterator is closed.

    `check` is called all the while. Raises what it raises, Stopped, and ProcessDied when the process ends.
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
    told: Queue[Json | None] = Queue()
    reader = threading.Thread(target=_read, args=(process, told), daemon=True)
    reader.start()
    try:
        yield from _told(errands, told, check)
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stdin is not None
        process.stdin.close()


def _told(errands: Errands, told: Queue[Json | None], check: Callable[[], None]) -> Iterator[Json]:
    while True:
        check()
        if errands.is_stopping.is_set():
            raise Stopped
        try:
            each = told.get(timeout=POLL_S)
        except Empty:
            continue
        if each is None:
            raise ProcessDied("the process that knows models ended without a result")
        yield each


def _read(process: subprocess.Popen[bytes], told: Queue[Json | None]) -> None:
    assert process.stdout is not None
    try:
        with process.stdout:
            for line in process.stdout:
                told.put(json.loads(line))
    except ValueError:
        # Nothing that comes behind nonsense can be trusted.
        log.exception("errand.process_speaks_nonsense", pid=process.pid)
    told.put(None)
