"""Service accounts: a project's callers that are no person. Each may hold API keys of the project."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import NotFound
from storage import pages
from storage.database import Base, CreatedAt, Timestamp
from storage.ids import new_id

Role = Literal["owner", "member", "none"]


class ServiceAccountRow(Base):
    __tablename__ = "service_accounts"
    __table_args__ = (
        CheckConstraint("role IN ('owner', 'member', 'none')", name="role"),
        Index(None, "project_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    role: Mapped[str]
    """`owner`: its keys may change the project's guard, which those of a `member` may not. `none` may hold no key."""
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[Timestamp | None]
    """Rows stay for the keys that point at them."""


def create(session: Session, project_id: str, *, name: str, role: Role) -> ServiceAccountRow:
    row = ServiceAccountRow(id=new_id("svc_"), project_id=project_id, name=name, role=role)
    session.add(row)
    session.flush()
    return row


def find(session: Session, project_id: str, account_id: str) -> ServiceAccountRow | None:
    return session.scalar(
        select(ServiceAccountRow).where(
            ServiceAccountRow.id == account_id,
            ServiceAccountRow.project_id == project_id,
            ServiceAccountRow.deleted_at.is_(None),
        )
    )


def get(session: Session, project_id: str, account_id: str) -> ServiceAccountRow:
    row = find(session, project_id, account_id)
    if row is None:
        raise NotFound(f"No service account found with id '{account_id}'.")
    return row


def lock(session: Session, project_id: str, account_id: str) -> ServiceAccountRow:
    """Lock an account: until the end of the transaction nobody else changes it or gives it a key."""
    row = get(session, project_id, account_id)
    session.refresh(row, with_for_update=True)
    return get(session, project_id, account_id)


def by_ids(session: Session, ids: Collection[str]) -> dict[str, ServiceAccountRow]:
    """The accounts of keys that were found in their project; deleted ones, too."""
    query = select(ServiceAccountRow).where(ServiceAccountRow.id.in_(ids))
    return {row.id: row for row in session.scalars(query)}


def page(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> pages.RowPage[ServiceAccountRow]:
    """Oldest first."""
    return pages.read(
        session,
        select(ServiceAccountRow).where(
            ServiceAccountRow.project_id == project_id, ServiceAccountRow.deleted_at.is_(None)
        ),
        ServiceAccountRow.created_at,
        ServiceAccountRow.id,
        after=find(session, project_id, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=False,
    )


def update(
    session: Session,
    project_id: str,
    account_id: str,
    *,
    name: str | None = None,
    role: Role | None = None,
) -> ServiceAccountRow:
    row = get(session, project_id, account_id)
    row.name = row.name if name is None else name
    row.role = row.role if role is None else role
    session.flush()
    return row


def remove(session: Session, row: ServiceAccountRow) -> None:
    """Its keys are the caller's to revoke, in the same transaction."""
    row.deleted_at = session.scalars(select(func.clock_timestamp())).one()
    session.flush()
