"""Asks the api on a project's behalf, many requests at a time, and is patient when it is busy.

The requests live in one asyncio loop on a thread of its own, because there they can be broken off at any
moment: the api notices, and no model computes for nobody.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import structlog

from foundation.headers import BATCH, PROJECT

from .line_turns import LineTurns

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 660.0
"""Longer than the api itself waits for a model."""
MAX_PAUSE_S = 30.0
BUSY = frozenset({401, 429, 503})
"""Replies that say "not now", as often as it takes. 401 is the operator's to mend: the key is ours."""
FAULTS = frozenset({408, 500, 502, 504})
"""Replies that may be better next time."""
MAX_FAULTS = 3

log = structlog.get_logger()


@dataclass(frozen=True)
class ApiReply:
    """What the api answered in the end."""

    status: int
    request_id: str
    body: Any


class TimedOut(Exception):
    """The model took too long, several times."""


class Gateway:
    """About `concurrency` requests are under way at a time; the others wait for their project's turn."""

    def __init__(self, api_url: str, internal_key: str, concurrency: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._http = httpx.AsyncClient(
            base_url=api_url,
            headers={
                "authorization": f"Bearer {internal_key}",
                "content-type": "application/json",
            },
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
            # The turns are the limit.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=concurrency),
            # A proxy of the environment is meant for the world outside.
            trust_env=False,
        )
        self._turns = LineTurns(concurrency)
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()

    def ask(self, project_id: str, batch_id: str, path: str, body: bytes) -> Future[ApiReply]:
        """The future raises TimedOut; cancelling it breaks the request off."""
        headers = {PROJECT: project_id, BATCH: batch_id}
        return self._run(self._ask(project_id, path, body, headers))

    def close(self) -> None:
        self._run(self._close()).result(timeout=5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()

    async def _ask(
        self, project_id: str, path: str, body: bytes, headers: dict[str, str]
    ) -> ApiReply:
        num_faults = num_pauses = 0
        while True:
            retry_after = ""
            try:
                async with self._turns.turn(project_id):
                    response = await self._http.post(path, content=body, headers=headers)
            except httpx.ReadTimeout:
                num_faults += 1
                if num_faults == MAX_FAULTS:
                    raise TimedOut from None
            except httpx.TransportError as error:
                log.warning("gateway.unreachable", error=repr(error))
            else:
                if response.status_code in FAULTS:
                    num_faults += 1
                if response.status_code not in BUSY | FAULTS or num_faults == MAX_FAULTS:
                    return _reply(response)
                log.info("gateway.busy", status=response.status_code)
                retry_after = response.headers.get("retry-after", "")
            await asyncio.sleep(_pause_s(num_pauses, retry_after))
            num_pauses += 1


def _reply(response: httpx.Response) -> ApiReply:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = {"error": {"message": response.text[:1000], "type": "server_error"}}
    return ApiReply(response.status_code, response.headers.get("x-request-id", ""), body)


def _pause_s(num_pauses: int, retry_after: str) -> float:
    """What the server asks for, or twice as long each time; never all lines at the same moment."""
    told_s = int(retry_after) if retry_after.isascii() and retry_after.isdecimal() else 0
    pause_s = float(min(MAX_PAUSE_S, max(told_s, 0.5 * 2 ** min(num_pauses, 10))))
    return pause_s * random.uniform(0.75, 1.25)
