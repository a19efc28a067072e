"""Events of a job. Each has a key derived from what it reports, so a replayed step tells nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Identity,
    Index,
    String,
    UniqueConstraint,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage import pages
from storage.database import Base, CreatedAt, Json
from storage.ids import new_id

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


def warn(session: Session, job_id: str, message: str) -> None:
    """The same words again, after a resume, are no news."""
    key = f"warning:{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    add(session, job_id, key, message, level="warn", data={})


def find(session: Session, job_id: str, key: str) -> EventRow | None:
    return session.scalar(select(EventRow).where(EventRow.job_id == job_id, EventRow.key == key))


def page(
    session: Session, job_id: str, *, after: str | None, limit: int, key_prefix: str = ""
) -> pages.RowPage[EventRow]:
    """Newest first, of those whose key begins so. The caller has checked that the job is the project's."""
    query = select(EventRow).where(EventRow.job_id == job_id)
    if key_prefix:
        query = query.where(EventRow.key.startswith(key_prefix))
    return pages.read(
        session,
        query,
        EventRow.seq,
        after=session.scalar(query.where(EventRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def last_seq(session: Session, job_id: str) -> int:
    """The newest event's; 0 if there is none."""
    return session.scalar(select(func.max(EventRow.seq)).where(EventRow.job_id == job_id)) or 0


def seq_of(session: Session, job_id: str, event_id: str) -> int | None:
    """Where in the job's order the event stands; None if the job has no such event."""
    return session.scalar(
        select(EventRow.seq).where(EventRow.job_id == job_id, EventRow.id == event_id)
    )


def since(session: Session, job_id: str, seq: int, *, limit: int) -> list[EventRow]:
    """What came behind `seq`, oldest first. The caller has checked that the job is the project's."""
    query = select(EventRow).where(EventRow.job_id == job_id, EventRow.seq > seq)
    return list(session.scalars(query.order_by(EventRow.seq).limit(limit)))


def news(session: Session, seqs: Mapping[str, int], *, limit: int) -> list[EventRow]:
    """What came behind each job's `seq`, oldest first, for many jobs in one query.

    A job's events are written under the lock of its row, so none of them appears before an older one.
    """
    arrays = func.unnest(
        cast(list(seqs), ARRAY(String)), cast(list(seqs.values()), ARRAY(BigInteger))
    )
    known = arrays.table_valued(
        column("job_id", String), column("seq", BigInteger)
    ).render_derived()
    query = select(EventRow).join(
        known, (EventRow.job_id == known.c.job_id) & (EventRow.seq > known.c.seq)
    )
    return list(session.scalars(query.order_by(EventRow.seq).limit(limit)))


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


def last_metrics(session: Session, job_id: str) -> Json | None:
    """The data of the newest metrics event: what stands behind it in the index is all that is read."""
    return session.scalar(
        select(EventRow.data)
        .where(EventRow.job_id == job_id, EventRow.type == "metrics")
        .order_by(EventRow.seq.desc())
        .limit(1)
    )
