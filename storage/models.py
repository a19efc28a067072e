"""Models: the names users call tuned weights by. A name points at an adapter."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, Select, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from .adapters import AdapterRow
from .database import Base, CreatedAt
from .errors import ModelNotFound
from .ids import random_name


class ModelRow(Base):
    __tablename__ = "models"
    __table_args__ = (Index(None, "project_id", "created_at"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"), index=True)
    base_model: Mapped[str]
    job_id: Mapped[str] = mapped_column(index=True)
    owned_by: Mapped[str]
    created_at: Mapped[CreatedAt]


def new_name(base_model: str, organization_slug: str, suffix: str | None) -> str:
    """`ft:{base}:{organisation}:{suffix or nothing}:{8 characters}`."""
    return f"ft:{base_model}:{organization_slug}:{suffix or ''}:{random_name(8)}"


def create(
    session: Session,
    name: str,
    *,
    project_id: str,
    adapter_id: str,
    base_model: str,
    job_id: str,
    owned_by: str,
) -> ModelRow:
    row = ModelRow(
        name=name,
        project_id=project_id,
        adapter_id=adapter_id,
        base_model=base_model,
        job_id=job_id,
        owned_by=owned_by,
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, project_id: str, name: str) -> tuple[ModelRow, AdapterRow] | None:
    """The project's model of that name with its adapter."""
    found = session.execute(_named(project_id, name)).one_or_none()
    return None if found is None else (found[0], found[1])


def find_to_train(
    session: Session, project_id: str, name: str
) -> tuple[ModelRow, AdapterRow] | None:
    """As `find`, and the adapter stays until this transaction ends, also if the model is deleted."""
    query = _named(project_id, name).with_for_update(read=True, of=AdapterRow)
    found = session.execute(query).one_or_none()
    return None if found is None else (found[0], found[1])


def _named(project_id: str, name: str) -> Select[ModelRow, AdapterRow]:
    return (
        select(ModelRow, AdapterRow)
        .join(AdapterRow, ModelRow.adapter_id == AdapterRow.id)
        .where(ModelRow.name == name, ModelRow.project_id == project_id)
    )


def all(session: Session, project_id: str) -> list[ModelRow]:
    return list(
        session.scalars(
            select(ModelRow)
            .where(ModelRow.project_id == project_id)
            .order_by(ModelRow.created_at.desc(), ModelRow.name)
        )
    )


def remove(session: Session, project_id: str, name: str) -> str:
    """Take the name away and give the id of the adapter that it pointed at."""
    adapter_id: str | None = session.scalar(
        delete(ModelRow)
        .where(ModelRow.name == name, ModelRow.project_id == project_id)
        .returning(ModelRow.adapter_id)
    )
    if adapter_id is None:
        raise ModelNotFound(name)
    return adapter_id
