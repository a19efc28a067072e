"""Processes that lint files: one at a time of each project, a few of all, and what they found is kept for a while.

Linting is computing, of which the api does none by itself: nobody else's request waits for it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import OrderedDict
from typing import Any
from weakref import WeakValueDictionary

import structlog

from foundation.errors import InvalidRequest, Unavailable

MAX_RUNS = 2
MAX_S = 60.0
MAX_KEPT = 128
"""Reports, of some kilobytes each; each process of the api keeps its own."""

Json = dict[str, Any]
log = structlog.get_logger()


class LintRuns:
    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MAX_RUNS)
        self._of_project: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._kept: OrderedDict[str, Json] = OrderedDict()

    def turn(self, project_id: str) -> asyncio.Lock:
        """While it is held, no other file of the project is linted."""
        lock = self._of_project.get(project_id)
        if lock is None:
            lock = self._of_project[project_id] = asyncio.Lock()
        return lock

    def kept(self, key: str) -> Json | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    async def run(self, key: str, asked: Json) -> Json:
        """What the linter says. Raises InvalidRequest where it takes too long, and Unavailable."""
        async with self._all:
            report = await _run(asked)
        self._kept[key] = report
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return report


async def _run(asked: Json) -> Json:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dataset.lint"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(MAX_S):
            output, errors = await process.communicate(json.dumps(asked).encode())
    except TimeoutError:
        raise InvalidRequest(
            f"The file takes longer than {MAX_S:.0f} s to lint; run `luthier lint` on the file itself",
            param="file_id",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        log.error("lint.failed", output=errors.decode(errors="replace")[-2000:])
        raise Unavailable("The linter ended without a report; the server's log says why")
    report: Json = json.loads(output)
    return report
