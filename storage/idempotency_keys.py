"""Idempotency keys: the reply to the first request that carried a key, for those that repeat it.

A request claims its key before it does anything, and keeps the claim alive while it works. When it has
created something, the reply is kept for a day; when it has not, the key is free again. A claim whose
request died runs out by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, Index, LargeBinary, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from .database import Base, CreatedAt, Int64, Timestamp
from .ids import new_id

KEPT = timedelta(hours=24)
CLAIM = timedelta(seconds=60)


class IdempotencyKeyRow(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    project_id: Mapped[str] = mapped_column(primary_key=True)
    """Empty for an admin key."""
    api_key_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """As the client made it up."""
    created_at: Mapped[CreatedAt]
    claim: Mapped[str]
    """Names the request that works under the key."""
    claimed_until: Mapped[Timestamp | None]
    """None once the reply is there."""
    fingerprint: Mapped[str | None]
    """Of the request: what it was sent to, and the digest of its body."""
    body_bytes: Mapped[Int64 | None]
    """How long the request's body was."""
    status: Mapped[int | None]
    content_type: Mapped[str | None]
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


@dataclass(frozen=True)
class Owner:
    """Whose the key is: two callers may make up the same one."""

    project_id: str
    api_key_id: str
    key: str


@dataclass(frozen=True)
class StoredReply:
    """What is kept of the first request and its reply."""

    fingerprint: str
    body_bytes: int
    status: int
    content_type: str
    body: bytes


def claim(session: Session, owner: Owner) -> str | StoredReply | None:
    """Take the key: the claim's name, the reply that is there already, or None if another has it."""
    name = new_id("")
    now = func.clock_timestamp()
    is_free = or_(IdempotencyKeyRow.claimed_until < now, IdempotencyKeyRow.created_at <= now - KEPT)
    taken = session.scalar(
        insert(IdempotencyKeyRow)
        .values(
            project_id=owner.project_id,
            api_key_id=owner.api_key_id,
            key=owner.key,
            claim=name,
            claimed_until=now + CLAIM,
        )
        .on_conflict_do_update(
            index_elements=["project_id", "api_key_id", "key"],
            set_={
                "created_at": now,
                "claim": name,
                "claimed_until": now + CLAIM,
                "fingerprint": None,
                "body_bytes": None,
                "status": None,
                "content_type": None,
                "body": None,
            },
            where=is_free,
        )
        .returning(IdempotencyKeyRow.claim)
    )
    if taken is not None:
        return name
    row = session.scalar(select(IdempotencyKeyRow).where(*_is(owner)))
    if row is None or row.claimed_until is not None:
        return None
    assert row.fingerprint is not None
    assert row.status is not None
    return StoredReply(
        fingerprint=row.fingerprint,
        body_bytes=row.body_bytes or 0,
        status=row.status,
        content_type=row.content_type or "",
        body=row.body or b"",
    )


def renew(session: Session, owner: Owner, name: str) -> None:
    """The request is still at work; harmless once its reply is kept."""
    session.execute(
        update(IdempotencyKeyRow)
        .where(
            *_is(owner),
            IdempotencyKeyRow.claim == name,
            IdempotencyKeyRow.claimed_until.is_not(None),
        )
        .values(claimed_until=func.clock_timestamp() + CLAIM)
        .execution_options(synchronize_session=False)
    )


def keep(session: Session, owner: Owner, name: str, reply: StoredReply) -> None:
    """The request has created something: this is what it was told."""
    session.execute(
        update(IdempotencyKeyRow)
        .where(*_is(owner), IdempotencyKeyRow.claim == name)
        .values(
            claimed_until=None,
            fingerprint=reply.fingerprint,
            body_bytes=reply.body_bytes,
            status=reply.status,
            content_type=reply.content_type,
            body=reply.body,
        )
        .execution_options(synchronize_session=False)
    )


def release(session: Session, owner: Owner, name: str) -> None:
    """The request has created nothing: the key is free for another try."""
    session.execute(
        delete(IdempotencyKeyRow)
        .where(*_is(owner), IdempotencyKeyRow.claim == name)
        .execution_options(synchronize_session=False)
    )


def remove_expired(session: Session) -> None:
    now = func.clock_timestamp()
    session.execute(
        delete(IdempotencyKeyRow)
        .where(
            IdempotencyKeyRow.created_at <= now - KEPT,
            # One that is claimed belongs to a request that is still at work.
            func.coalesce(IdempotencyKeyRow.claimed_until < now, True),
        )
        .execution_options(synchronize_session=False)
    )


def _is(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (
        IdempotencyKeyRow.project_id == owner.project_id,
        IdempotencyKeyRow.api_key_id == owner.api_key_id,
        IdempotencyKeyRow.key == owner.key,
    )
