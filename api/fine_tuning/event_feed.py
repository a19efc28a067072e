"""The events of jobs as they happen, for everybody who follows one.

One task asks the database what is new, for all the jobs that somebody follows at once; those who follow
wait in memory. So a thousand streams cost two queries every half second, and hold no connection.

What is past is read page by page, in turns: who begins a hundred streams at once holds up only those. A
page that is full never changes, and is kept for the others who are told the same.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
from sqlalchemy.orm import Session

from api.database import Database
from foundation.errors import Unavailable
from storage.jobs import events, jobs
from storage.jobs.events import EventRow

POLL_S = 0.5
KEPT_ROWS = 256
"""Of each job, in memory; who is further behind reads from the database until it has caught up."""
PAGE_ROWS = 200
KEPT_PAGES = 50
TURN_TIMEOUT_S = 5.0
MAX_ROWS = 5000
"""In one look; the rest comes with the next."""

log = structlog.get_logger()


class Topic:
    """One job that somebody follows: its newest events, and whether more can come."""

    def __init__(self, job_id: str, seq: int, *, is_over: bool) -> None:
        self.job_id = job_id
        self.seq = seq
        """Of the newest event that is known here."""
        self.is_over = is_over
        self.num_followers = 0
        self.news = asyncio.Event()
        """Take it before looking at anything else, then wait for it; each is set once."""
        self._rows: deque[EventRow] = deque()
        self._start = seq
        """`_rows` holds all that came behind this."""

    def behind(self, seq: int) -> list[EventRow] | None:
        """What came behind `seq`, oldest first; None if only the database knows."""
        if seq < self._start:
            return None
        return [row for row in self._rows if row.seq > seq]

    def publish(self, rows: list[EventRow], *, is_over: bool) -> None:
        for row in rows:
            self._rows.append(row)
            self.seq = row.seq
            if len(self._rows) > KEPT_ROWS:
                self._start = self._rows.popleft().seq
        self.is_over = is_over
        if rows or is_over:
            self.wake()

    def wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class EventFeed:
    """All topics of this process, and the task that fills them while there are any."""

    def __init__(self, database: Database) -> None:
        self.is_closing = False
        """The server is going down: whoever follows a job goes home."""
        self._database = database
        self._topics: dict[str, Topic] = {}
        self._task: asyncio.Task[None] | None = None
        self._turns = asyncio.Lock()
        self._pages: OrderedDict[tuple[str, int], list[EventRow]] = OrderedDict()
        """By the job and what they stand behind; the least recently used first."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Inside, one stream begins or catches up; the others wait, first come, first served.

        Raises Unavailable if it takes too long.
        """
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(
                "Too many streams are beginning at once. Please try again shortly."
            ) from None
        try:
            yield
        finally:
            self._turns.release()

    async def past(self, job_id: str, seq: int) -> list[EventRow]:
        """The events behind `seq` as far as a page goes, oldest first."""
        async with self.turn():
            page = self._pages.get((job_id, seq))
            if page is not None:
                self._pages.move_to_end((job_id, seq))
                # However many are caught up from memory: everybody else comes in between.
                await asyncio.sleep(0)
                return page
            page = await self._database.read(events.since, job_id, seq, limit=PAGE_ROWS)
            if len(page) == PAGE_ROWS:
                self._pages[job_id, seq] = page
                if len(self._pages) > KEPT_PAGES:
                    self._pages.popitem(last=False)
            return page

    @contextmanager
    def follow(self, job_id: str, seq: int, *, is_over: bool) -> Iterator[Topic]:
        """The job's topic. `seq` is the newest event that the caller found in the database, and
        `is_over` says that the job had ended before it looked.
        """
        topic = self._topics.setdefault(job_id, Topic(job_id, seq, is_over=is_over))
        topic.num_followers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield topic
        finally:
            topic.num_followers -= 1
            if topic.num_followers == 0:
                self._topics.pop(job_id)

    @property
    def num_followers(self) -> int:
        return sum(topic.num_followers for topic in self._topics.values())

    def say_goodbye(self) -> None:
        """End every stream, now."""
        self.is_closing = True
        for topic in self._topics.values():
            topic.wake()

    async def close(self) -> None:
        self.say_goodbye()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while self._topics:
            await asyncio.sleep(POLL_S)
            try:
                await self._look()
            except Exception as error:
                # The database is away, most likely: those who follow wait until it is back.
                log.warning("event_feed.failed", error=repr(error))

    async def _look(self) -> None:
        seqs = {topic.job_id: topic.seq for topic in self._topics.values() if not topic.is_over}
        if not seqs:
            return
        ended, rows = await self._database.run(_news, seqs)
        by_job: dict[str, list[EventRow]] = {}
        for row in rows:
            by_job.setdefault(row.job_id, []).append(row)
        is_all = len(rows) < MAX_ROWS
        for job_id, seq in seqs.items():
            topic = self._topics.get(job_id)
            # Another one of that name began after the question was asked: the next look is for it.
            if topic is not None and topic.seq == seq:
                topic.publish(by_job.get(job_id, []), is_over=is_all and job_id in ended)


def _news(session: Session, seqs: Mapping[str, int]) -> tuple[set[str], list[EventRow]]:
    # In this order: a job's last events are committed with its end, so once that is seen they are there.
    ended = jobs.ended(session, list(seqs))
    return ended, events.news(session, seqs, limit=MAX_ROWS)
