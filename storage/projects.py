"""Projects: the tenants. Every other row belongs to one, and every query names it."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, Session, mapped_column

from .database import Base, CreatedAt, Timestamp
from .ids import new_id


class ProjectRow(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    organization_id: Mapped[str]
    organization_slug: Mapped[str]
    """The third part of a tuned model's name: `ft:base:slug:suffix:id`."""
    created_at: Mapped[CreatedAt]
    archived_at: Mapped[Timestamp | None]


def create(
    session: Session,
    name: str,
    *,
    organization_id: str = "org-luthier",
    organization_slug: str = "luthier",
) -> ProjectRow:
    row = ProjectRow(
        id=new_id("proj_"),
        name=name,
        organization_id=organization_id,
        organization_slug=organization_slug,
    )
    session.add(row)
    session.flush()
    return row
