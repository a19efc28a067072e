"""/v1/chat/completions/{id}: chat completions that were asked for with `store: true`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.pages import After, PageWithIds, ends, limit, places
from api.requests import bodies, metadata_filter
from api.requests.fields import Metadata
from api.requests.validation import validate
from api.wiring import Wired
from foundation.errors import InvalidRequest
from foundation.invalid_parameters import explain
from storage.inference import stored_completions
from storage.inference.stored_completions import StoredCompletionRow

router = APIRouter(prefix="/v1/chat/completions", tags=["stored completions"])

MAX_ASKED_BYTES = 2 * 1024 * 1024
# Of the request, told again with the stored completion.
TOLD = (
    "frequency_penalty",
    "presence_penalty",
    "response_format",
    "seed",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
)
# Told likewise, where it was asked for; OpenAI has no such field.
OWN = "luthier"

Json = dict[str, Any]


class Keeping(BaseModel):
    """What a request for a completion says about storing it."""

    store: StrictBool | None = None
    metadata: Metadata | None = None
    asked: Json = Field(default_factory=dict, exclude=True)
    """What is kept of the request besides its metadata."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Keeping | None:
        """None if nothing is to be stored. Raises InvalidRequest."""
        try:
            keeping = validate(cls, {k: body.get(k) for k in ("store", "metadata")})
        except ValidationError as error:
            raise explain(error.errors()) from None
        if not keeping.store:
            return None
        keeping.asked = {name: body.get(name) for name in (*TOLD, "user", "messages")}
        if OWN in body:
            keeping.asked[OWN] = body[OWN]
        num_bytes = len(orjson.dumps(keeping.asked))
        if num_bytes > MAX_ASKED_BYTES:
            raise InvalidRequest(
                f"Messages and parameters of {num_bytes} bytes are too large to be stored; at most "
                f"{MAX_ASKED_BYTES} bytes are. Send 'store': false.",
                param="store",
            )
        return keeping


def keep(
    session: Session, project_id: str, *, completion: Json, keeping: Keeping, request_id: str
) -> None:
    """Store a completion and the request that it answers."""
    told = {name: keeping.asked.get(name) for name in TOLD}
    if OWN in keeping.asked:
        told[OWN] = keeping.asked[OWN]
    stored_completions.create(
        session,
        project_id,
        completion={
            **told,
            **completion,
            "request_id": request_id or None,
            "input_user": keeping.asked.get("user"),
        },
        messages=keeping.asked.get("messages") or [],
        metadata=keeping.metadata,
    )


class StoredCompletion(BaseModel):
    """A chat completion with its metadata and the most telling parameters of its request."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Json]
    metadata: dict[str, str] | None

    @classmethod
    def from_row(cls, row: StoredCompletionRow) -> StoredCompletion:
        return cls(**{**row.completion, "metadata": row.metadata_})


class StoredMessage(BaseModel):
    """A message of the request."""

    model_config = ConfigDict(extra="allow")
    id: str
    role: str
    content: str | None
    name: str | None = None
    refusal: str | None = None
    content_parts: list[Json] | None = None

    @classmethod
    def from_message(cls, message: Json, message_id: str) -> StoredMessage:
        """Where `content` is a list of parts, its text is told as `content`, too."""
        content, name = message.get("content"), message.get("name")
        parts = [p for p in content if isinstance(p, dict)] if isinstance(content, list) else None
        text = "".join(str(part.get("text", "")) for part in parts) if parts else content
        return cls(
            **{
                **message,
                "id": message_id,
                "role": str(message.get("role")),
                "content": text if isinstance(text, str) else None,
                "content_parts": parts,
                "name": name if isinstance(name, str) else None,
                "refusal": None,
            }
        )


class UpdateStoredCompletion(BaseModel):
    metadata: Metadata | None


class StoredCompletionDeleted(BaseModel):
    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: Literal[True] = True


Order = Annotated[Literal["asc", "desc"], Query(description="By time; the oldest come first.")]


@router.get("", openapi_extra=metadata_filter.parameter("`metadata[key]=value`"))
async def list_stored_completions(
    request: Request,
    caller: ProjectCaller,
    wiring: Wired,
    model: str | None = None,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    order: Order = "asc",
) -> PageWithIds[StoredCompletion]:
    page = await wiring.database.run(
        stored_completions.page,
        caller.project_id,
        model=model,
        metadata=metadata_filter.pairs(request),
        after=after,
        limit=limit,
        descending=order == "desc",
    )
    return PageWithIds(
        data=[StoredCompletion.from_row(row) for row in page.rows],
        has_more=page.has_more,
        **ends([row.id for row in page.rows]),
    )


@router.get("/{completion_id}")
async def retrieve_stored_completion(
    completion_id: str, caller: ProjectCaller, wiring: Wired
) -> StoredCompletion:
    row = await wiring.database.run(stored_completions.get, caller.project_id, completion_id)
    return StoredCompletion.from_row(row)


@router.post("/{completion_id}", openapi_extra=bodies.document(UpdateStoredCompletion))
async def update_stored_completion(
    completion_id: str,
    body: Annotated[UpdateStoredCompletion, Depends(bodies.json_body(UpdateStoredCompletion))],
    caller: ProjectCaller,
    wiring: Wired,
) -> StoredCompletion:
    """Replaces the metadata."""
    row = await wiring.database.run(
        stored_completions.update, caller.project_id, completion_id, body.metadata
    )
    return StoredCompletion.from_row(row)


@router.delete("/{completion_id}")
async def delete_stored_completion(
    completion_id: str, caller: ProjectCaller, wiring: Wired
) -> StoredCompletionDeleted:
    await wiring.database.run(stored_completions.remove, caller.project_id, completion_id)
    return StoredCompletionDeleted(id=completion_id)


@router.get("/{completion_id}/messages")
async def list_stored_messages(
    completion_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    order: Order = "asc",
) -> PageWithIds[StoredMessage]:
    """The messages of the request, in the order in which they were sent."""
    row = await wiring.database.run(stored_completions.get, caller.project_id, completion_id)
    messages = row.messages
    ids = [f"{completion_id}-{index}" for index in range(len(messages))]
    wanted, has_more = places(ids, after=after, limit=limit, descending=order == "desc")
    return PageWithIds(
        data=[StoredMessage.from_message(messages[place], ids[place]) for place in wanted],
        has_more=has_more,
        **ends([ids[place] for place in wanted]),
    )
