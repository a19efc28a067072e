"""Stored chat completions: what was asked with `store: true`, and the answer.

Messages and completion are kept as JSON text: nothing looks into them, and unlike PostgreSQL's JSON
types, text holds every string that JSON can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import orjson
from sqlalchemy import ForeignKey, Index, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import NotFound
from storage import pages
from storage.database import Base, CreatedAt, Json

KEPT_FOR = timedelta(days=30)
"""As long as OpenAI keeps them."""


class CompletionNotFound(NotFound):
    def __init__(self, completion_id: str) -> None:
        super().__init__(f"Completion {completion_id} not found")


class StoredCompletionRow(Base):
    __tablename__ = "stored_completions"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    # Ids are made by inference servers, so another project's may be the same.
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    """The name that the model was asked by."""
    metadata_: Mapped[Json | None] = mapped_column("metadata")
    messages_json: Mapped[str]
    completion_json: Mapped[str]
    created_at: Mapped[CreatedAt] = mapped_column(index=True)

    @property
    def messages(self) -> list[Json]:
        """Those of the request."""
        messages: list[Json] = orjson.loads(self.messages_json)
        return messages

    @property
    def completion(self) -> Json:
        completion: Json = orjson.loads(self.completion_json)
        return completion


def create(
    session: Session,
    project_id: str,
    *,
    completion: Json,
    messages: list[Json],
    metadata: Mapping[str, str] | None,
) -> None:
    """Keep a completion under its own `id` and `model`; one of the same id is replaced."""
    values = {
        "model": completion["model"],
        "metadata": dict(metadata) if metadata is not None else None,
        "messages_json": orjson.dumps(messages).decode(),
        "completion_json": orjson.dumps(completion).decode(),
    }
    session.execute(
        insert(StoredCompletionRow)
        .values(project_id=project_id, id=completion["id"], **values)
        .on_conflict_do_update(index_elements=["project_id", "id"], set_=values)
    )


def find(session: Session, project_id: str, completion_id: str) -> StoredCompletionRow | None:
    return session.get(StoredCompletionRow, (project_id, completion_id))


def get(session: Session, project_id: str, completion_id: str) -> StoredCompletionRow:
    row = find(session, project_id, completion_id)
    if row is None:
        raise CompletionNotFound(completion_id)
    return row


def page(
    session: Session,
    project_id: str,
    *,
    model: str | None = None,
    metadata: Mapping[str, str] | None = None,
    after: str | None = None,
    limit: int = 20,
    descending: bool = False,
) -> pages.RowPage[StoredCompletionRow]:
    """`metadata` selects completions that carry all the pairs."""
    query = select(StoredCompletionRow).where(StoredCompletionRow.project_id == project_id)
    if model is not None:
        query = query.where(StoredCompletionRow.model == model)
    if metadata:
        query = query.where(StoredCompletionRow.metadata_.contains(dict(metadata)))
    return pages.read(
        session,
        query,
        StoredCompletionRow.created_at,
        StoredCompletionRow.id,
        after=find(session, project_id, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=descending,
    )


def update(
    session: Session, project_id: str, completion_id: str, metadata: Mapping[str, str] | None
) -> StoredCompletionRow:
    """Replace the metadata."""
    row = get(session, project_id, completion_id)
    row.metadata_ = dict(metadata) if metadata is not None else None
    session.flush()
    return row


def remove(session: Session, project_id: str, completion_id: str) -> None:
    row = get(session, project_id, completion_id)
    session.delete(row)
    session.flush()


def remove_expired(session: Session) -> None:
    """Take away what was kept for `KEPT_FOR`."""
    session.execute(
        delete(StoredCompletionRow)
        .where(StoredCompletionRow.created_at <= func.now() - KEPT_FOR)
        .execution_options(synchronize_session=False)
    )
