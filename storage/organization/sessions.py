"""Sessions of the page: a browser's stand-in for an API key, which it must not keep.

As with keys only a token's SHA-256 is stored. A session lives no longer than its key: the look-up joins the two,
so revoking a key ends its sessions with the next request.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import ColumnElement, ForeignKey, delete, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import NotFound
from storage.database import Base, CreatedAt, Timestamp
from storage.ids import new_id

from . import api_keys
from .api_keys import Caller

IDLE_S = 12 * 3600
MAX_AGE_S = 7 * 24 * 3600
MAX_SESSIONS_PER_KEY = 100
"""Of which the least recently used make room."""


class SessionRow(Base):
    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp]
    """However much it is used."""


def new_token() -> str:
    return secrets.token_urlsafe(32)


def create(session: Session, key_id: str, token: str) -> SessionRow:
    """Begin a session of the key's, and forget those that are over."""
    session.execute(delete(SessionRow).where(SessionRow.key_id == key_id, or_(*_is_over())))
    kept = (
        select(SessionRow.id)
        .where(SessionRow.key_id == key_id)
        .order_by(SessionRow.last_used_at.desc())
        .limit(MAX_SESSIONS_PER_KEY - 1)
    )
    session.execute(
        delete(SessionRow).where(SessionRow.key_id == key_id, SessionRow.id.not_in(kept))
    )
    row = SessionRow(
        id=new_id("sess_"),
        key_id=key_id,
        sha256=api_keys.digest(token),
        expires_at=func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, MAX_AGE_S),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def find(session: Session, token: str) -> SessionRow | None:
    """The live session of that token; its use is noted once a minute."""
    row = session.scalar(
        select(SessionRow).where(SessionRow.sha256 == api_keys.digest(token), ~or_(*_is_over()))
    )
    if row is not None:
        a_minute_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 1)
        session.execute(
            update(SessionRow)
            .where(SessionRow.id == row.id, SessionRow.last_used_at < a_minute_ago)
            .values(last_used_at=func.now())
            .execution_options(synchronize_session=False)
        )
    return row


def find_caller(session: Session, token: str) -> Caller | None:
    """Whom a live session of a live key stands for, or None."""
    row = find(session, token)
    return None if row is None else api_keys.caller_of_key(session, row.key_id)


def of_key(session: Session, key_id: str) -> Sequence[SessionRow]:
    """Those that live, the last used first."""
    query = select(SessionRow).where(SessionRow.key_id == key_id, ~or_(*_is_over()))
    return session.scalars(query.order_by(SessionRow.last_used_at.desc(), SessionRow.id)).all()


def end(session: Session, key_id: str, session_id: str) -> None:
    """From the next request on its cookie is worth nothing. Raises NotFound."""
    ended = session.execute(
        delete(SessionRow)
        .where(SessionRow.key_id == key_id, SessionRow.id == session_id)
        .returning(SessionRow.id)
    )
    if ended.first() is None:
        raise NotFound(f"No session found with id '{session_id}'.", param="session_id")


def _is_over() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    idle_since = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, IDLE_S)
    return SessionRow.last_used_at <= idle_since, SessionRow.expires_at <= func.now()
