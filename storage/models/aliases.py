"""Aliases: other names that a project gives to its models, so that code keeps the name it has.

A base's id and the operator's aliases (`storage.models.base_models`) come first when a name is looked up, then the
project's aliases, then the names of tuned models. An alias points at a name, not at a model: when that
model is deleted, the alias stays and answers as an unknown model until it is bound anew.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import AliasNotFound
from storage import pages
from storage.database import Base, CreatedAt

from .base_models import BaseModel, Catalogue


class AliasRow(Base):
    __tablename__ = "model_aliases"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    """A base's id or a tuned model's name, maybe at a strength, never another alias."""
    created_at: Mapped[CreatedAt]
    """When it was last bound."""


def bind(session: Session, project_id: str, alias: str, model: str) -> AliasRow:
    """Let `alias` stand for `model` from now on. The caller has checked both names."""
    row = session.scalars(
        insert(AliasRow)
        .values(project_id=project_id, alias=alias, model=model)
        .on_conflict_do_update(
            index_elements=["project_id", "alias"],
            set_={"model": model, "created_at": func.clock_timestamp()},
        )
        .returning(AliasRow),
        execution_options={"populate_existing": True},
    ).one()
    return row


def target(session: Session, project_id: str, alias: str) -> str | None:
    """The name that the alias stands for."""
    return session.scalar(
        select(AliasRow.model).where(AliasRow.project_id == project_id, AliasRow.alias == alias)
    )


def find_base(
    session: Session, project_id: str, name: str, catalogue: Catalogue
) -> BaseModel | None:
    """The base that the project calls by that name: its id, or an alias of either kind."""
    base = catalogue.get(name)
    if base is not None:
        return base
    model = target(session, project_id, name)
    return None if model is None else catalogue.get(model)


def page(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> pages.RowPage[AliasRow]:
    """A page of aliases in their own order; the cursor is an alias."""
    query = select(AliasRow).where(AliasRow.project_id == project_id)
    return pages.read(
        session,
        query,
        AliasRow.alias,
        after=session.scalar(query.where(AliasRow.alias == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=False,
    )


def remove(session: Session, project_id: str, alias: str) -> None:
    gone = session.scalar(
        delete(AliasRow)
        .where(AliasRow.project_id == project_id, AliasRow.alias == alias)
        .returning(AliasRow.alias)
    )
    if gone is None:
        raise AliasNotFound(alias)
