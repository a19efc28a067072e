"""Conversations: items in their order, which responses read and add to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson
from sqlalchemy import BigInteger, ForeignKey, Identity, Index, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, NotFound
from storage import pages
from storage.database import Base, CreatedAt, Json

MAX_ITEMS = 10_000
"""Of one conversation."""
MAX_BYTES = 8 * 1024 * 1024
"""Of its items together: each response reads all of them."""


class ConversationNotFound(NotFound):
    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"Conversation with id '{conversation_id}' not found.")


class ItemNotFound(NotFound):
    def __init__(self, conversation_id: str, item_id: str) -> None:
        super().__init__(f"Item with id '{item_id}' not found in conversation '{conversation_id}'.")


class ConversationRow(Base):
    __tablename__ = "conversations"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    metadata_: Mapped[Json | None] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]


class ConversationItemRow(Base):
    __tablename__ = "conversation_items"
    __table_args__ = (Index(None, "conversation_id", "position"),)

    conversation_id: Mapped[str] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    )
    # Made by clients, too, so another conversation's may be the same.
    id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, Identity())
    """In the order of time; a later item has a greater one."""
    item_json: Mapped[str]

    @property
    def item(self) -> Json:
        item: Json = orjson.loads(self.item_json)
        return item


def create(
    session: Session, project_id: str, conversation_id: str, metadata: Mapping[str, str] | None
) -> ConversationRow:
    row = ConversationRow(
        id=conversation_id,
        project_id=project_id,
        metadata_=dict(metadata) if metadata is not None else None,
    )
    session.add(row)
    session.flush()
    return row


def get(
    session: Session, project_id: str, conversation_id: str, *, is_to_change: bool = False
) -> ConversationRow:
    """Raises ConversationNotFound. Who changes its items does so alone."""
    query = select(ConversationRow).where(
        ConversationRow.id == conversation_id, ConversationRow.project_id == project_id
    )
    row = session.scalar(query.with_for_update() if is_to_change else query)
    if row is None:
        raise ConversationNotFound(conversation_id)
    return row


def update(
    session: Session, project_id: str, conversation_id: str, metadata: Mapping[str, str] | None
) -> ConversationRow:
    """Replace the metadata."""
    row = get(session, project_id, conversation_id)
    row.metadata_ = dict(metadata) if metadata is not None else None
    session.flush()
    return row


def remove(session: Session, project_id: str, conversation_id: str) -> None:
    """With its items."""
    session.delete(get(session, project_id, conversation_id))
    session.flush()


def add_items(
    session: Session, project_id: str, conversation_id: str, items: Sequence[Json]
) -> None:
    """Raises ConversationNotFound, and InvalidRequest for one too many or an id that is taken."""
    get(session, project_id, conversation_id, is_to_change=True)
    of_conversation = ConversationItemRow.conversation_id == conversation_id
    size = func.coalesce(func.sum(func.octet_length(ConversationItemRow.item_json)), 0)
    count, num_bytes = session.execute(select(func.count(), size).where(of_conversation)).one()
    written = [orjson.dumps(item) for item in items]
    for what, num, num_more, most in (
        ("items", count, len(items), MAX_ITEMS),
        ("bytes", num_bytes, sum(map(len, written)), MAX_BYTES),
    ):
        if num + num_more > most:
            raise InvalidRequest(
                f"A conversation holds at most {most} {what}; '{conversation_id}' has {num} already, and these are "
                f"{num_more}. Delete some of its items, or begin another conversation.",
                param="items",
            )
    ids = [item["id"] for item in items]
    taken = set(
        session.scalars(
            select(ConversationItemRow.id).where(of_conversation, ConversationItemRow.id.in_(ids))
        )
    )
    for index, item_id in enumerate(ids):
        if item_id in taken or item_id in ids[:index]:
            raise InvalidRequest(
                f"Item '{item_id}' is in the conversation already.", param=f"items[{index}].id"
            )
    for item_id, item_json in zip(ids, written, strict=True):
        session.add(
            ConversationItemRow(
                conversation_id=conversation_id, id=item_id, item_json=item_json.decode()
            )
        )
        # One after the other, so that their positions are in this order.
        session.flush()


def all_items(session: Session, project_id: str, conversation_id: str) -> list[Json]:
    get(session, project_id, conversation_id)
    rows = session.scalars(
        select(ConversationItemRow)
        .where(ConversationItemRow.conversation_id == conversation_id)
        .order_by(ConversationItemRow.position)
    )
    return [row.item for row in rows]


def page_of_items(
    session: Session,
    project_id: str,
    conversation_id: str,
    *,
    after: str | None,
    limit: int,
    descending: bool,
) -> pages.RowPage[ConversationItemRow]:
    get(session, project_id, conversation_id)
    query = select(ConversationItemRow).where(
        ConversationItemRow.conversation_id == conversation_id
    )
    return pages.read(
        session,
        query,
        ConversationItemRow.position,
        after=session.get(ConversationItemRow, (conversation_id, after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=descending,
    )


def get_item(
    session: Session, project_id: str, conversation_id: str, item_id: str
) -> ConversationItemRow:
    """Raises ConversationNotFound or ItemNotFound."""
    get(session, project_id, conversation_id)
    row = session.get(ConversationItemRow, (conversation_id, item_id))
    if row is None:
        raise ItemNotFound(conversation_id, item_id)
    return row


def remove_item(
    session: Session, project_id: str, conversation_id: str, item_id: str
) -> ConversationRow:
    session.delete(get_item(session, project_id, conversation_id, item_id))
    session.flush()
    return get(session, project_id, conversation_id)
