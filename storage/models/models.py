"""Models: the names users call tuned weights by. A name points at an artifact.

A project can use its own models and those that it has a permission for (`storage.models.permissions`), by their
names or by its aliases (`storage.models.aliases`). Only the owner can delete a model or hand out its weights.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, Select, delete, exists, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, ModelNotFound, PermissionDenied
from storage.database import Base, CreatedAt
from storage.ids import random_name

from . import aliases
from .aliases import AliasRow
from .artifacts import ArtifactRow
from .permissions import PermissionRow


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    artifact_id: Mapped[str] = mapped_column(ForeignKey("artifacts.id"), index=True)
    base_model: Mapped[str]
    job_id: Mapped[str] = mapped_column(index=True)
    owned_by: Mapped[str]
    created_at: Mapped[CreatedAt]


def new_name(base_model: str, organization_slug: str, suffix: str | None) -> str:
    """`ft:{base}:{organisation}:{suffix or nothing}:{8 characters}`."""
    return f"ft:{base_model}:{organization_slug}:{suffix or ''}:{random_name(8)}"


def new_legacy_name(session: Session, base: str, organization_slug: str, suffix: str | None) -> str:
    """`{base}:ft-{organisation}:{suffix}-{date and time}`, as the old API formed them.

    A second that another model has taken is passed over.
    """
    at = session.scalars(select(func.timezone("UTC", func.clock_timestamp()))).one()
    prefix = f"{base}:ft-{organization_slug}" + (f":{suffix}" if suffix else "")
    while True:
        name = f"{prefix}-{at:%Y-%m-%d-%H-%M-%S}"
        if session.get(ModelRow, name) is None:
            return name
        at += timedelta(seconds=1)


def create(
    session: Session,
    name: str,
    *,
    project_id: str,
    artifact_id: str,
    base_model: str,
    job_id: str,
    owned_by: str,
) -> ModelRow:
    row = ModelRow(
        name=name,
        project_id=project_id,
        artifact_id=artifact_id,
        base_model=base_model,
        job_id=job_id,
        owned_by=owned_by,
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, project_id: str, name: str) -> tuple[ModelRow, ArtifactRow] | None:
    """The model that the project calls by that name or alias, with its artifact."""
    found = session.execute(_named(project_id, name)).one_or_none()
    return None if found is None else (found[0], found[1])


def find_of_operator(session: Session, name: str) -> tuple[ModelRow, ArtifactRow] | None:
    """The model of that very name, whoever's it is: for a name that the operator gave, never for one out of a request."""
    query = select(ModelRow, ArtifactRow).join(ArtifactRow).where(ModelRow.name == name)
    found = session.execute(query).one_or_none()
    return None if found is None else (found[0], found[1])


def find_to_train(
    session: Session, project_id: str, name: str
) -> tuple[ModelRow, ArtifactRow] | None:
    """Like `find`, and the artifact stays until this transaction ends, also if the model is deleted."""
    query = _named(project_id, name).with_for_update(read=True, of=ArtifactRow)
    found = session.execute(query).one_or_none()
    return None if found is None else (found[0], found[1])


def find_own(session: Session, project_id: str | None, name: str) -> ModelRow | None:
    """The model of that very name, if it is the project's own; None as project is an admin's look.

    It is not deleted before this transaction ends.
    """
    query = select(ModelRow).where(ModelRow.name == name)
    if project_id is not None:
        query = query.where(ModelRow.project_id == project_id)
    return session.scalar(query.with_for_update(read=True, key_share=True))


def all(session: Session, project_id: str) -> list[ModelRow]:
    """What the project can use, newest first."""
    return list(
        session.scalars(
            select(ModelRow)
            .where(_may_use(project_id))
            .order_by(ModelRow.created_at.desc(), ModelRow.name)
        )
    )


def remove(session: Session, project_id: str, name: str) -> str:
    """Take the name away and give the id of the artifact that it pointed at. Permissions go with it."""
    artifact_id: str | None = session.scalar(
        delete(ModelRow)
        .where(ModelRow.name == name, ModelRow.project_id == project_id)
        .returning(ModelRow.artifact_id)
    )
    if artifact_id is None:
        raise _not_removable(session, project_id, name)
    return artifact_id


def _not_removable(session: Session, project_id: str, name: str) -> InvalidRequest:
    target = aliases.target(session, project_id, name)
    if target is not None:
        return InvalidRequest(
            f"'{name}' is an alias of '{target}'. Delete the model by its own name, or the alias by "
            f"DELETE /v1/luthier/aliases/{name}",
            param="model",
        )
    if find(session, project_id, name) is not None:
        return PermissionDenied(
            f"The model '{name}' belongs to another project; only that one can delete it.",
            param="model",
        )
    return ModelNotFound(name)


def _named(project_id: str, name: str) -> Select[ModelRow, ArtifactRow]:
    target = (
        select(AliasRow.model)
        .where(AliasRow.project_id == project_id, AliasRow.alias == name)
        .scalar_subquery()
    )
    return (
        select(ModelRow, ArtifactRow)
        .join(ArtifactRow, ModelRow.artifact_id == ArtifactRow.id)
        .where(ModelRow.name == func.coalesce(target, name), _may_use(project_id))
    )


def _may_use(project_id: str) -> Any:
    is_permitted = exists().where(
        PermissionRow.model_name == ModelRow.name, PermissionRow.project_id == project_id
    )
    return or_(ModelRow.project_id == project_id, is_permitted)
