"""API keys. Only a key's SHA-256 is stored: keys carry 190 random bits, so no slow hash is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, and_, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from .database import Base, CreatedAt, Timestamp
from .ids import new_id
from .projects import ProjectRow

Kind = Literal["project", "admin"]

INTERNAL_KEY_ID = "internal"
"""Stands for the key that Luthier's own processes know each other by; it is in no row."""


class ApiKeyRow(Base):
    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("kind IN ('project', 'admin')", name="kind"),
        CheckConstraint("kind = 'admin' OR project_id IS NOT NULL", name="project"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), index=True)
    kind: Mapped[str]
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    hint: Mapped[str]
    """The key's last four characters, to tell keys apart."""
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp | None]
    revoked_at: Mapped[Timestamp | None]
    last_used_at: Mapped[Timestamp | None]


@dataclass(frozen=True)
class Caller:
    """Who a request comes from. An admin key belongs to no project."""

    key_id: str
    kind: Kind
    project_id: str
    organization_id: str
    organization_slug: str

    @property
    def is_internal(self) -> bool:
        """One of Luthier's own processes, acting for the project."""
        return self.key_id == INTERNAL_KEY_ID


def new_key(kind: Kind) -> str:
    return new_id("sk-admin-" if kind == "admin" else "sk-proj-", 32)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def create(
    session: Session, key: str, *, kind: Kind, name: str, project_id: str | None
) -> ApiKeyRow:
    """Store a key's hash. The key itself is the caller's to show, once."""
    row = ApiKeyRow(
        id=new_id("key_"),
        project_id=project_id,
        kind=kind,
        name=name,
        sha256=digest(key),
        hint=key[-4:],
    )
    session.add(row)
    session.flush()
    return row


def find_caller(session: Session, key: str) -> Caller | None:
    """The live key's caller, or None. The look-up is by hash, so timing tells nothing of a key."""
    found = session.execute(
        select(ApiKeyRow, ProjectRow)
        .outerjoin(ProjectRow, ApiKeyRow.project_id == ProjectRow.id)
        .where(
            ApiKeyRow.sha256 == digest(key),
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > func.now()),
            ProjectRow.archived_at.is_(None),
        )
    ).one_or_none()
    if found is None:
        return None
    row, project = found
    _touch(session, row)
    return Caller(
        key_id=row.id,
        kind="admin" if row.kind == "admin" else "project",
        project_id=project.id if project else "",
        organization_id=project.organization_id if project else "",
        organization_slug=project.organization_slug if project else "",
    )


def internal_caller(session: Session, project_id: str) -> Caller | None:
    """One of Luthier's own processes acting for a live project; None if there is no such project."""
    project = session.scalar(
        select(ProjectRow).where(ProjectRow.id == project_id, ProjectRow.archived_at.is_(None))
    )
    if project is None:
        return None
    return Caller(
        key_id=INTERNAL_KEY_ID,
        kind="project",
        project_id=project.id,
        organization_id=project.organization_id,
        organization_slug=project.organization_slug,
    )


def _touch(session: Session, row: ApiKeyRow) -> None:
    """Note the use, once a minute at most: a poller must not write at every request."""
    stale = or_(
        ApiKeyRow.last_used_at.is_(None),
        ApiKeyRow.last_used_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 1),
    )
    session.execute(
        update(ApiKeyRow)
        .where(and_(ApiKeyRow.id == row.id, stale))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )
