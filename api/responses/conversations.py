"""/v1/conversations: what is said over several responses, kept until it is deleted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.idempotency import CreatesOnce
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Metadata
from api.wiring import Wired
from storage.ids import new_id
from storage.inference import conversations
from storage.inference.conversations import ConversationRow

from . import items
from .responses import ShownItem

router = APIRouter(prefix="/v1/conversations", tags=["conversations"], route_class=CreatesOnce)

MAX_NEW_ITEMS = 20
"""In one request, as at OpenAI."""

Json = dict[str, Any]
Items = Annotated[list[Json], Field(max_length=MAX_NEW_ITEMS)]


class CreateConversation(BaseModel):
    items: Items | None = None
    metadata: Metadata | None = None


class UpdateConversation(BaseModel):
    metadata: Metadata | None


class CreateItems(BaseModel):
    items: Items


class Conversation(BaseModel):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]

    @classmethod
    def from_row(cls, row: ConversationRow) -> Conversation:
        created_at = int(row.created_at.timestamp())
        return cls(id=row.id, created_at=created_at, metadata=row.metadata_ or {})


class ConversationDeleted(BaseModel):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


@router.post("", openapi_extra=bodies.document(CreateConversation, is_required=False))
async def create_conversation(
    body: Annotated[
        CreateConversation, Depends(bodies.json_body(CreateConversation, is_required=False))
    ],
    caller: ProjectCaller,
    wiring: Wired,
) -> Conversation:
    first = items.taken(body.items or [], "items")
    project_id, conversation_id = caller.project_id or "", new_id("conv_", 40)

    def create(session: Session) -> ConversationRow:
        row = conversations.create(session, project_id, conversation_id, body.metadata)
        conversations.add_items(session, project_id, conversation_id, first)
        return row

    return Conversation.from_row(await wiring.database.run(create))


@router.get("/{conversation_id}")
async def retrieve_conversation(
    conversation_id: str, caller: ProjectCaller, wiring: Wired
) -> Conversation:
    row = await wiring.database.run(conversations.get, caller.project_id, conversation_id)
    return Conversation.from_row(row)


@router.post("/{conversation_id}", openapi_extra=bodies.document(UpdateConversation))
async def update_conversation(
    conversation_id: str,
    body: Annotated[UpdateConversation, Depends(bodies.json_body(UpdateConversation))],
    caller: ProjectCaller,
    wiring: Wired,
) -> Conversation:
    """Replaces the metadata."""
    row = await wiring.database.run(
        conversations.update, caller.project_id, conversation_id, body.metadata
    )
    return Conversation.from_row(row)


@router.delete("/{conversation_id}")
async def delete_conversation(
    conversation_id: str, caller: ProjectCaller, wiring: Wired
) -> ConversationDeleted:
    await wiring.database.run(conversations.remove, caller.project_id, conversation_id)
    return ConversationDeleted(id=conversation_id)


@router.post("/{conversation_id}/items", openapi_extra=bodies.document(CreateItems))
async def create_conversation_items(
    conversation_id: str,
    body: Annotated[CreateItems, Depends(bodies.json_body(CreateItems))],
    caller: ProjectCaller,
    wiring: Wired,
) -> PageWithIds[ShownItem]:
    added = items.taken(body.items, "items")
    await wiring.database.run(conversations.add_items, caller.project_id, conversation_id, added)
    return _page(added, has_more=False)


@router.get("/{conversation_id}/items")
async def list_conversation_items(
    conversation_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> PageWithIds[ShownItem]:
    page = await wiring.database.run(
        conversations.page_of_items,
        caller.project_id,
        conversation_id,
        after=after,
        limit=limit,
        descending=order == "desc",
    )
    return _page([row.item for row in page.rows], has_more=page.has_more)


@router.get("/{conversation_id}/items/{item_id}")
async def retrieve_conversation_item(
    conversation_id: str, item_id: str, caller: ProjectCaller, wiring: Wired
) -> ShownItem:
    row = await wiring.database.run(
        conversations.get_item, caller.project_id, conversation_id, item_id
    )
    return ShownItem(**row.item)


@router.delete("/{conversation_id}/items/{item_id}")
async def delete_conversation_item(
    conversation_id: str, item_id: str, caller: ProjectCaller, wiring: Wired
) -> Conversation:
    row = await wiring.database.run(
        conversations.remove_item, caller.project_id, conversation_id, item_id
    )
    return Conversation.from_row(row)


def _page(shown: list[Json], *, has_more: bool) -> PageWithIds[ShownItem]:
    data = [ShownItem(**item) for item in shown]
    return PageWithIds(data=data, has_more=has_more, **ends([item.id for item in data]))
