"""Server-sent events of a job, from the first or from a place in its order until it ends.

A stream keeps nothing but its place. A reader that is slow falls back to reading pages from the database;
one that takes nothing for a minute is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import anyio
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.types import Message, Send

from storage import events, jobs
from storage.errors import InvalidRequest, Unavailable
from storage.events import EventRow
from storage.jobs import JobRow

from .event_stream import MEDIA_TYPE
from .wiring import Wiring

HEARTBEAT_S = 15.0
"""Proxies close what is silent for longer, and a reader that is gone is noticed."""
STALL_TIMEOUT_S = 60.0
PAGE_ROWS = 200
MAX_STREAMS = 2000
"""In one process; each costs a socket."""

HEARTBEAT = b": the job goes on\n\n"
DONE = b"data: [DONE]\n\n"


CHUNK_BYTES = 64 * 1024
"""Events are written together up to here; whether the reader still takes any shows from write to write."""


class Mark(Enum):
    """What a stream has to say beside events."""

    STILL_HERE = "still here"
    END = "end"


@dataclass(frozen=True)
class Place:
    """Where a stream begins, and what the database knew then."""

    job_id: str
    seq: int
    last_seq: int
    is_over: bool


def place(session: Session, job: JobRow, after: str | None) -> Place:
    """Behind the event `after`, or before the first one. The caller has checked whose job it is."""
    seq = events.seq_of(session, job.id, after) if after else 0
    if seq is None:
        raise InvalidRequest(
            f"The job {job.id} has no event {after} to go on from. Leave it out to begin with the "
            "first event.",
            param="after",
        )
    # The status was read before, so a job that is over has no event behind the last one found here.
    is_over = job.status in jobs.TERMINAL
    return Place(job.id, seq, events.last_seq(session, job.id), is_over)


async def follow(wiring: Wiring, place: Place) -> AsyncGenerator[list[EventRow] | Mark]:
    """The job's events, oldest first, as many at a time as there are; END behind the last one of a job
    that is over.

    Without END the server is going down, and the reader may go on elsewhere.
    """
    seq = place.seq
    feed = wiring.event_feed
    with feed.follow(place.job_id, place.last_seq, is_over=place.is_over) as topic:
        while not feed.is_closing:
            news = topic.news
            rows = topic.behind(seq)
            if rows is None:
                rows = await wiring.database.read(events.since, place.job_id, seq, limit=PAGE_ROWS)
            if rows:
                seq = rows[-1].seq
                yield rows
                continue
            if topic.is_over:
                yield Mark.END
                return
            try:
                await asyncio.wait_for(news.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield Mark.STILL_HERE


def joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts in order, small ones together."""
    chunk = bytearray()
    for part in parts:
        chunk += part
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


def check_room(wiring: Wiring) -> None:
    """Raises Unavailable when so many follow jobs already that others could not be served."""
    if wiring.event_feed.num_followers >= MAX_STREAMS:
        raise Unavailable("Too many streams are open on this server. Please try again shortly.")


class JobStream(StreamingResponse):
    """Ends when the client goes away, and also when it stays but takes nothing."""

    media_type = MEDIA_TYPE

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(STALL_TIMEOUT_S):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            # Whoever answers without an end has the connection closed by the server.
            return
