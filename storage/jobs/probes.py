"""Answers to a job's probes: events, whose keys say after which step which prompt was asked."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from storage import pages

from . import events
from .events import EventRow

_PREFIX = "probe:"


def key(step: int, number: int) -> str:
    return f"{_PREFIX}{step}:{number}"


def told(session: Session, job_id: str) -> set[str]:
    """The keys of those that have an answer, or never will."""
    query = select(EventRow.key).where(EventRow.job_id == job_id, EventRow.key.startswith(_PREFIX))
    return set(session.scalars(query))


def page(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> pages.RowPage[EventRow]:
    """Newest first. The caller has checked that the job is the project's."""
    return events.page(session, job_id, after=after, limit=limit, key_prefix=_PREFIX)
