"""Permissions: another project of the same organization may use a tuned model, and train on from it.

Whether one applies is decided where models are looked up (`storage.models.models.find`). Only the project that owns
the model, or an admin, gives and takes them; they go with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import ForeignKey, Index, UniqueConstraint, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, PermissionNotFound
from storage import pages
from storage.database import Base, CreatedAt
from storage.ids import new_id
from storage.organization.projects import ProjectRow

if TYPE_CHECKING:
    from .models import ModelRow


class PermissionRow(Base):
    __tablename__ = "checkpoint_permissions"
    __table_args__ = (
        UniqueConstraint("model_name", "project_id"),
        Index(None, "model_name", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    model_name: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    """The project that may use the model."""
    created_at: Mapped[CreatedAt]


def create(session: Session, model: ModelRow, project_ids: Sequence[str]) -> list[PermissionRow]:
    """One for each project, in the order given; a project that has one already keeps it.

    Raises InvalidRequest for a project that is not of the owner's organization, or is archived.
    """
    wanted = list(dict.fromkeys(project_ids))
    owner = session.get_one(ProjectRow, model.project_id)
    known = set(
        session.scalars(
            select(ProjectRow.id).where(
                ProjectRow.id.in_(wanted),
                ProjectRow.organization_id == owner.organization_id,
                ProjectRow.archived_at.is_(None),
            )
        )
    )
    for project_id in wanted:
        if project_id not in known:
            raise InvalidRequest(
                f"No such project in your organization: {project_id}",
                param="project_ids",
                code="project_not_found",
            )
    for project_id in wanted:
        session.execute(
            insert(PermissionRow)
            .values(id=new_id("cp_"), model_name=model.name, project_id=project_id)
            .on_conflict_do_nothing(index_elements=["model_name", "project_id"])
        )
    rows = session.scalars(
        select(PermissionRow).where(
            PermissionRow.model_name == model.name, PermissionRow.project_id.in_(wanted)
        )
    )
    by_project = {row.project_id: row for row in rows}
    return [by_project[project_id] for project_id in wanted]


def page(
    session: Session,
    model_name: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    descending: bool,
) -> pages.RowPage[PermissionRow]:
    """A page of one model's permissions, for one project if asked so. The caller has checked that the model is theirs."""
    query = select(PermissionRow).where(PermissionRow.model_name == model_name)
    cursor = query.where(PermissionRow.id == after)
    if project_id is not None:
        query = query.where(PermissionRow.project_id == project_id)
    return pages.read(
        session,
        query,
        PermissionRow.created_at,
        PermissionRow.id,
        after=session.scalar(cursor) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=descending,
    )


def remove(session: Session, model_name: str, permission_id: str) -> None:
    gone = session.scalar(
        delete(PermissionRow)
        .where(PermissionRow.id == permission_id, PermissionRow.model_name == model_name)
        .returning(PermissionRow.id)
    )
    if gone is None:
        raise PermissionNotFound(permission_id)
