"""How many streams of events may be open: of one key, of one project, of all.

A stream costs a connection for as long as what it tells of lasts, a job or a response, so nobody may have all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from foundation.errors import LuthierError, Unavailable
from storage.organization.api_keys import Caller

MAX_STREAMS = 2000
"""In one process; each costs a socket."""


class TooManyStreams(LuthierError):
    default_status = 429
    default_type = "requests"


class StreamSeats:
    def __init__(self, max_per_project: int) -> None:
        self._max_per_project = max_per_project
        self._max_per_key = max(1, max_per_project // 2)
        self._of_projects: Counter[str] = Counter()
        self._of_keys: Counter[str] = Counter()

    @property
    def num_taken(self) -> int:
        return self._of_projects.total()

    def take(self, caller: Caller) -> Seat:
        """To be released at the stream's end. Raises TooManyStreams and Unavailable."""
        if self.num_taken >= MAX_STREAMS:
            raise Unavailable("Too many streams are open on this server. Please try again shortly.")
        for counts, holder, maximum, whose in (
            (self._of_keys, caller.key_id, self._max_per_key, "this API key"),
            (self._of_projects, caller.project_id, self._max_per_project, "this project"),
        ):
            if counts[holder] >= maximum:
                raise TooManyStreams(
                    f"Too many streams of events are open for {whose}: at most {maximum} may be. "
                    "Close some of them, or ask again and again without 'stream'.",
                    code="rate_limit_exceeded",
                )
        return Seat(self, caller)

    def _count(self, caller: Caller, change: int) -> None:
        for counts, holder in (
            (self._of_keys, caller.key_id),
            (self._of_projects, caller.project_id),
        ):
            counts[holder] += change
            if not counts[holder]:
                del counts[holder]


class Seat:
    def __init__(self, seats: StreamSeats, caller: Caller) -> None:
        self._seats = seats
        self._caller = caller
        self._is_taken = True
        seats._count(caller, 1)

    def release(self) -> None:
        """May be called again."""
        if self._is_taken:
            self._is_taken = False
            self._seats._count(self._caller, -1)


class SeatedStream(StreamingResponse):
    """Events, in a seat. Ends when the client goes away."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[bytes], seat: Seat) -> None:
        super().__init__(chunks, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._seat.release()
