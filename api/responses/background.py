"""Responses in the background: made by the api process that was asked, whoever waits for them.

The row says how far one is. It is written every few seconds, which also says that somebody is at it: one of a process that
died is told as failed. A response that was cancelled, or deleted, ends at the next writing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy.orm import Session

from api.database import FAILED, UNREACHABLE
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


async def run(wiring: Wiring, caller: Caller, response_id: str) -> None:
    """Make a response whose row is there."""
    await _Run(wiring, caller, response_id).run()


class _Run:
    """Until it begins, the row alone knows what was asked."""

    def __init__(self, wiring: Wiring, caller: Caller, response_id: str) -> None:
        self._wiring = wiring
        self._caller = caller
        self._id = response_id
        self._unfolding: UnfoldingResponse | None = None

    async def run(self) -> None:
        work = asyncio.create_task(self._work())
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=WRITE_EVERY_S)
                if not work.done() and not await self._write(self._say):
                    work.cancel()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            await self._fail(STOPPED)
            raise

    async def _work(self) -> None:
        try:
            deadline_s, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
            while not await self._made(is_last_try=time.monotonic() > deadline_s):
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        except LuthierError as error:
            await self._fail(error.message, _code(error))
        except Exception:
            log.exception("response.failed", response=self._id)
            await self._fail("The server had an error.")

    async def _made(self, *, is_last_try: bool) -> bool:
        """False if there is no room for it now, and it is to be tried again. Raises LuthierError."""
        try:
            turn = await turns.resumed(self._wiring, self._caller, self._id)
            if turn is None:
                return True
            exchange, upstream = await turns.ask(
                self._wiring, self._caller, turn, is_streaming=True
            )
        except LuthierError as error:
            if error.status in LATER and not is_last_try:
                return False
            raise
        except UNREACHABLE:
            if not is_last_try:
                return False
            raise
        self._unfolding = UnfoldingResponse(turn.body)
        try:
            keep = partial(self._keep, turn)
            async for _ in streams.unfolded(exchange, upstream, self._unfolding, keep):
                pass
        finally:
            exchange.close()
            await upstream.aclose()
        await self._write(self._say)
        return True

    async def _keep(self, turn: Turn, body: Json) -> None:
        """Raises LuthierError."""

        def end(session: Session) -> None:
            if responses.go_on(session, self._id, body):
                turns.say(session, self._caller.project_id or "", turn, body)

        await self._wiring.database.run(end)

    def _say(self, session: Session) -> bool:
        """How far it is. False if it is no longer wanted."""
        so_far = None if self._unfolding is None else self._unfolding.body()
        return responses.go_on(session, self._id, so_far)

    async def _fail(self, message: str, code: str = "server_error") -> None:
        def fail(session: Session) -> bool:
            if self._unfolding is not None:
                body = self._unfolding.body()
            elif (row := responses.find_waiting(session, self._id)) is not None:
                body = row.body
            else:
                return False
            return responses.go_on(session, self._id, failed(body, message, code))

        await self._write(fail)

    async def _write(self, write: Callable[[Session], bool]) -> bool:
        try:
            return await self._wiring.database.run(write)
        except FAILED as error:
            # It is written again in a moment; if it never is, the row tells by its age.
            log.warning("response.not_written_yet", response=self._id, error=repr(error))
            return True


def _code(error: LuthierError) -> str:
    return "rate_limit_exceeded" if error.status == 429 else error.code or "server_error"
