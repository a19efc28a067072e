"""Tokens counted as they are used: added up in memory, written to the database every second.

A request never waits for its count to be written. What could not be written is kept and tried again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.database import UNREACHABLE, Database
from storage.organization import usage
from storage.organization.api_keys import Caller
from storage.organization.usage import MINUTE_S, UsageKey, Used

FLUSH_INTERVAL_S = 1.0

log = structlog.get_logger()


class Meter:
    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._used: dict[UsageKey, Used] = {}

    def count(self, caller: Caller, model: str, reported: object, *, is_batch: bool) -> None:
        """Count one request. `reported` is the `usage` of its reply; without one it used no tokens."""
        minute_s = int(self._clock()) // MINUTE_S * MINUTE_S
        key = UsageKey(minute_s, caller.project_id, caller.key_id, model, is_batch)
        self._used[key] = self._used.get(key, Used()) + read(reported)

    async def run(self) -> None:
        """Write every second, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what was counted since the last time."""
        if not self._used:
            return
        used, self._used = self._used, {}
        # Cancelled in the middle, nobody could say whether the counts are written already.
        writing = asyncio.ensure_future(self._write(used))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with suppress(Exception):
                await writing
            raise

    async def _write(self, used: Mapping[UsageKey, Used]) -> None:
        try:
            await self._database.run(usage.add, used)
        except UNREACHABLE as error:
            log.warning("usage.not_written_yet", error=str(error), num_rows=len(used))
            for key, value in used.items():
                self._used[key] = self._used.get(key, Used()) + value
        except SQLAlchemyError as error:
            # Trying again would fail again, and keep later counts from being written.
            log.error("usage.lost", error=str(error), used=[(str(k), v) for k, v in used.items()])


def read(reported: object) -> Used:
    """OpenAI's `usage` object; whatever of it is no number counts as none."""
    if not isinstance(reported, dict):
        return Used(num_requests=1)
    details = reported.get("prompt_tokens_details")
    return Used(
        input_tokens=_number(reported, "prompt_tokens"),
        cached_tokens=_number(details, "cached_tokens") if isinstance(details, dict) else 0,
        output_tokens=_number(reported, "completion_tokens"),
        num_requests=1,
    )


def _number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) and value >= 0 else 0
