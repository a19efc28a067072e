"""Responses in the background: made by the api process that was asked, whoever waits for them.

The row says how far one is. It is written every few seconds, which also says that somebody is at it: one of a process that
died is told as failed. A response that was cancelled, or deleted, ends at the next writing.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import structlog
from sqlalchemy.orm import Session

from api.database import FAILED
from api.gateway.exchange import Exchange
from api.wiring import Wiring
from foundation.errors import LuthierError
from storage.inference import responses
from storage.organization.api_keys import Caller

from . import streams, turns
from .turns import Turn
from .unfolding import UnfoldingResponse, failed

Json = dict[str, Any]

WRITE_EVERY_S = 2.0
MAX_OF_PROJECT = 100
"""Unfinished ones."""
PATIENCE_S = 3600.0
"""So long one waits for room at the inference servers."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 15.0
LATER = (429, 503)
STOPPED = "The server stopped before the response was complete. Please create it again."

log = structlog.get_logger()


async def run(wiring: Wiring, caller: Caller, turn: Turn) -> None:
    """Make a response whose row is there."""
    await _Run(wiring, caller, turn).run()


class _Run:
    def __init__(self, wiring: Wiring, caller: Caller, turn: Turn) -> None:
        self._wiring = wiring
        self._caller = caller
        self._turn = turn
        self._unfolding = UnfoldingResponse(turn.body)

    async def run(self) -> None:
        work = asyncio.create_task(self._work())
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=WRITE_EVERY_S)
                if not work.done() and not await self._write(self._unfolding.body()):
                    work.cancel()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            await self._fail(STOPPED)
            raise

    async def _work(self) -> None:
        try:
            exchange, upstream = await self._asked()
            try:
                async for _ in streams.unfolded(exchange, upstream, self._unfolding, self._keep):
                    pass
            finally:
                exchange.close()
                await upstream.aclose()
            await self._write(self._unfolding.body())
        except LuthierError as error:
            await self._fail(error.message, _code(error))
        except Exception:
            log.exception("response.failed", response=self._turn.id)
            await self._fail("The server had an error.")

    async def _asked(self) -> tuple[Exchange, httpx.Response]:
        deadline_s, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
        while True:
            try:
                return await turns.ask(self._wiring, self._caller, self._turn, is_streaming=True)
            except LuthierError as error:
                if error.status not in LATER or time.monotonic() > deadline_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_PAUSE_S, 2 * pause_s)

    async def _keep(self, body: Json) -> None:
        """Raises LuthierError."""

        def end(session: Session) -> None:
            if responses.go_on(session, self._turn.id, body):
                turns.say(session, self._caller.project_id or "", self._turn, body)

        await self._wiring.database.run(end)

    async def _fail(self, message: str, code: str = "server_error") -> None:
        await self._write(failed(self._unfolding.body(), message, code))

    async def _write(self, body: Json) -> bool:
        try:
            return await self._wiring.database.run(responses.go_on, self._turn.id, body)
        except FAILED as error:
            # It is written again in a moment; if it never is, the row tells by its age.
            log.warning("response.not_written_yet", response=self._turn.id, error=repr(error))
            return True


def _code(error: LuthierError) -> str:
    return "rate_limit_exceeded" if error.status == 429 else error.code or "server_error"
