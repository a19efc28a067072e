"""/v1/batches: create, list, retrieve, cancel. The errands process does what they ask for."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.auth import ProjectCaller
from api.files.expires_after import ExpiresAfter
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Metadata, Name
from api.ringing import ring
from api.wiring import Wired
from storage import queue
from storage.inference import batches
from storage.inference.batches import WINDOW_S, BatchRow

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=CreatesOnce)

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
# All that OpenAI knows. A batch on one that this server does not run fails when it is validated.
Endpoint = Literal[
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
]


class CreateBatch(BaseModel):
    input_file_id: Name
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(BaseModel):
    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    cached_tokens: int


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

    @classmethod
    def from_row(cls, row: BatchRow) -> Batch:
        created_at = int(row.created_at.timestamp())
        return cls(
            id=row.id,
            endpoint=row.endpoint,
            model=row.model,
            errors=BatchErrors(data=[BatchError(**e) for e in row.errors]) if row.errors else None,
            input_file_id=row.input_file_id,
            status=row.status,
            output_file_id=row.output_file_id,
            error_file_id=row.error_file_id,
            created_at=created_at,
            in_progress_at=seconds(row.in_progress_at),
            expires_at=created_at + WINDOW_S,
            finalizing_at=seconds(row.finalizing_at),
            completed_at=seconds(row.completed_at),
            failed_at=seconds(row.failed_at),
            expired_at=seconds(row.expired_at),
            cancelling_at=seconds(row.cancelling_at),
            cancelled_at=seconds(row.cancelled_at),
            request_counts=RequestCounts(
                total=row.num_lines, completed=row.num_completed, failed=row.num_failed
            ),
            usage=_usage(row),
            metadata=row.metadata_,
        )


@router.post("", openapi_extra=bodies.document(CreateBatch))
async def create_batch(
    body: Annotated[CreateBatch, Depends(bodies.json_body(CreateBatch))],
    caller: ProjectCaller,
    wiring: Wired,
) -> Batch:
    """What is wrong with the input file is told by the batch, which fails then."""
    after = body.output_expires_after
    row = await wiring.database.run(
        batches.create,
        f"batch_{uuid.uuid4().hex}",
        project_id=caller.project_id,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        metadata=body.metadata,
        output_expires_after_s=after.seconds if after else None,
    )
    await ring(queue.run_errand, queue.RUN_BATCH, row.id)
    return Batch.from_row(row)


@router.get("")
async def list_batches(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> PageWithIds[Batch]:
    page = await wiring.database.run(batches.page, caller.project_id, after=after, limit=limit)
    data = [Batch.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([batch.id for batch in data]))


@router.get("/{batch_id}")
async def retrieve_batch(batch_id: str, caller: ProjectCaller, wiring: Wired) -> Batch:
    return Batch.from_row(await wiring.database.run(batches.get, caller.project_id, batch_id))


@router.post("/{batch_id}/cancel")
async def cancel_batch(batch_id: str, caller: ProjectCaller, wiring: Wired) -> Batch:
    """What has been answered by now will be in the output file."""
    row = await wiring.database.run(batches.cancel, caller.project_id, batch_id)
    await ring(queue.run_errand, queue.RUN_BATCH, row.id)
    return Batch.from_row(row)


def _usage(row: BatchRow) -> BatchUsage:
    return BatchUsage(
        input_tokens=row.input_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=row.cached_tokens),
        output_tokens=row.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=row.reasoning_tokens),
        total_tokens=row.input_tokens + row.output_tokens,
    )
