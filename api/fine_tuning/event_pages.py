"""Pages of events for a crowd of pollers: those who ask at the same time share a query, and those who ask
the same share the bytes of the reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from api.database import Database
from foundation.errors import JobNotFound
from storage.jobs import event_pages
from storage.jobs.event_pages import Question
from storage.jobs.events import EventRow
from storage.pages import RowPage

from . import event as fine_tuning_event
from .gather import Gather

KEPT_EVENTS = 10_000
"""Rendered ones, in memory. An event never changes, and a crowd asks for the newest ones again and again."""


class EventPages:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._gather = Gather(self._look)
        self._rendered: dict[str, bytes] = {}
        """By their ids, oldest first."""

    async def get(self, project_id: str, job_id: str, *, after: str | None, limit: int) -> bytes:
        """A Page[FineTuningJobEvent] as JSON, newest first. Raises JobNotFound."""
        page = await self._gather.ask(Question(project_id, job_id, after, limit))
        if page is None:
            raise JobNotFound(job_id)
        return page

    async def _look(self, questions: Sequence[Question]) -> Mapping[Question, bytes]:
        pages = await self._database.read(event_pages.find, questions)
        return {question: self._render(page) for question, page in pages.items()}

    def _render(self, page: RowPage[Row[Any]]) -> bytes:
        events = b",".join(self.rendered(row) for row in page.rows)
        has_more = b"true" if page.has_more else b"false"
        return b'{"object":"list","data":[' + events + b'],"has_more":' + has_more + b"}"

    def rendered(self, row: EventRow | Row[Any]) -> bytes:
        """The event as JSON, made once for all who poll or follow."""
        rendered = self._rendered.get(row.id)
        if rendered is None:
            rendered = self._rendered[row.id] = fine_tuning_event.render(row)
            if len(self._rendered) > KEPT_EVENTS:
                del self._rendered[next(iter(self._rendered))]
        return rendered
