"""Projects: the tenants. Every other row belongs to one, and every query names it."""

from __future__ import annotations

from sqlalchemy import false, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, NotFound
from storage import pages
from storage.database import Base, CreatedAt, Timestamp
from storage.ids import new_id


class ProjectRow(Base):
    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    organization_id: Mapped[str]
    organization_slug: Mapped[str]
    """The third part of a tuned model's name: `ft:base:slug:suffix:id`."""
    created_at: Mapped[CreatedAt]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    """At the inference servers; None: what the settings say."""
    weight: Mapped[int] = mapped_column(server_default="1")
    """Of its share of the inference servers: where two projects want all, one of weight 3 gets three times as much as
    one of weight 1."""
    archived_at: Mapped[Timestamp | None]
    """From then on none of its keys works. There is no way back."""
    guards_input: Mapped[bool] = mapped_column(server_default=false())
    """Whether what its users write is judged by a classifier before a model reads it."""
    guards_output: Mapped[bool] = mapped_column(server_default=false())
    """And what a model answers, before anybody reads that."""


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


def get(session: Session, project_id: str) -> ProjectRow:
    """Archived or not."""
    row = session.get(ProjectRow, project_id)
    if row is None:
        raise NotFound(f"No project found with id '{project_id}'.")
    return row


def get_active(session: Session, project_id: str) -> ProjectRow:
    """Find a project that is to be changed; it stays active until the end of the transaction."""
    row = get(session, project_id)
    session.refresh(row, with_for_update={"read": True})
    if row.archived_at is not None:
        raise InvalidRequest(f"The project '{project_id}' is archived and cannot be changed.")
    return row


def page(
    session: Session, *, include_archived: bool, after: str | None, limit: int
) -> pages.RowPage[ProjectRow]:
    """Oldest first."""
    query = select(ProjectRow)
    if not include_archived:
        query = query.where(ProjectRow.archived_at.is_(None))
    return pages.read(
        session,
        query,
        ProjectRow.created_at,
        ProjectRow.id,
        after=session.get(ProjectRow, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=False,
    )


def rename(session: Session, project_id: str, name: str | None) -> ProjectRow:
    row = get(session, project_id)
    if name is None:
        return row
    row = get_active(session, project_id)
    row.name = name
    session.flush()
    return row


def guard(
    session: Session, project_id: str, *, guards_input: bool | None, guards_output: bool | None
) -> ProjectRow:
    """From the next request on. None changes nothing."""
    row = get_active(session, project_id)
    if guards_input is not None:
        row.guards_input = guards_input
    if guards_output is not None:
        row.guards_output = guards_output
    session.flush()
    return row


def limit(
    session: Session,
    project_id: str,
    *,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    weight: int | None,
) -> ProjectRow:
    """From the next request on. None changes nothing, 0 takes a limit away."""
    row = get_active(session, project_id)
    if requests_per_minute is not None:
        row.requests_per_minute = requests_per_minute or None
    if tokens_per_minute is not None:
        row.tokens_per_minute = tokens_per_minute or None
    if weight is not None:
        row.weight = weight
    session.flush()
    return row


def archive(session: Session, project_id: str) -> ProjectRow:
    """Archiving what is archived changes nothing."""
    row = get(session, project_id)
    session.refresh(row, with_for_update=True)
    if row.archived_at is None:
        row.archived_at = session.scalars(select(func.clock_timestamp())).one()
        session.flush()
    return row
