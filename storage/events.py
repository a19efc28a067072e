"""Events of a job. Each has a key derived from what it reports, so a replayed step tells nothing twice."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, UniqueConstraint, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from . import pages
from .database import Base, CreatedAt, Json
from .ids import new_id

Level = Literal["info", "warn", "error"]
Type = Literal["message", "metrics"]


class EventRow(Base):
    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "key"), Index(None, "job_id", "seq"))

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    seq: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    """Grows with each event; the order of the list."""
    key: Mapped[str]
    """What the event reports, for example `step:59`; unique within the job."""
    level: Mapped[str]
    type: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[CreatedAt]


def add(
    session: Session,
    job_id: str,
    key: str,
    message: str,
    *,
    level: Level = "info",
    type: Type = "message",
    data: Json | None = None,
) -> None:
    """Add an event, unless the job already has one of that key."""
    session.execute(
        insert(EventRow)
        .values(
            id=new_id("ftevent-"),
            job_id=job_id,
            key=key,
            level=level,
            type=type,
            message=message,
            data=data,
        )
        .on_conflict_do_nothing(index_elements=["job_id", "key"])
    )


def find(session: Session, job_id: str, key: str) -> EventRow | None:
    return session.scalar(select(EventRow).where(EventRow.job_id == job_id, EventRow.key == key))


def page(session: Session, job_id: str, *, after: str | None, limit: int) -> pages.Page[EventRow]:
    """Newest first. The caller has checked that the job is the project's."""
    query = select(EventRow).where(EventRow.job_id == job_id)
    return pages.read(
        session,
        query,
        EventRow.seq,
        after=session.scalar(query.where(EventRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def metrics(session: Session, job_id: str) -> list[Json]:
    """The data of every metrics event, in the order of the steps."""
    return [
        data
        for data in session.scalars(
            select(EventRow.data)
            .where(EventRow.job_id == job_id, EventRow.type == "metrics")
            .order_by(EventRow.seq)
        )
        if data is not None
    ]
