"""Server-sent events of a job, from the first or from a place in its order until it ends.

A stream keeps nothing but its place. One whose reader does not read stands still and costs nothing, until
the connection ends; a slow one falls back to reading pages from the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Concatenate, ParamSpec

from sqlalchemy.orm import Session

from api.wiring import Wiring
from foundation.errors import InvalidRequest
from storage.jobs import events, jobs
from storage.jobs.events import EventRow
from storage.jobs.jobs import JobRow
from storage.organization.api_keys import Caller

from .stream_seats import Seat

P = ParamSpec("P")

HEARTBEAT_S = 15.0
"""Proxies close what is silent for longer, and a reader that is gone is noticed."""

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
                rows = await feed.past(place.job_id, seq)
            if rows:
                seq = rows[-1].seq
                yield rows
                continue
            if topic.is_over:
                yield Mark.END
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await news.wait()
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


async def begin(
    wiring: Wiring,
    caller: Caller,
    find: Callable[Concatenate[Session, P], Place],
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[Place, Seat]:
    """Where the stream begins, and its seat, which a SeatedStream releases. Raises TooManyStreams,
    Unavailable and what `find` raises.
    """
    seat = wiring.stream_seats.take(caller)
    try:
        async with wiring.event_feed.turn():
            return await wiring.database.run(find, *args, **kwargs), seat
    except BaseException:
        seat.release()
        raise
