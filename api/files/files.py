"""/v1/files: upload, list, retrieve, delete, content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from api.auth import ProjectCaller
from api.blobs import blob_response, delete_blobs
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.wiring import Wired
from foundation.documents import reader_of
from foundation.errors import InvalidRequest
from storage.files import files
from storage.files.files import FileRow
from storage.ids import new_id
from storage.jobs import fine_tunes

from . import expires_after, form_file
from .jsonl import LineCheck

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=CreatesOnce)

MAX_BYTES = 512 * 1024**2
PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
"""Of files that users upload; the server gives its own files others."""
RESULTS = "fine-tune-results"
BATCH_KEPT_FOR_S = 30 * 24 * 3600


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None

    @classmethod
    def from_row(cls, row: FileRow) -> FileObject:
        return cls(
            id=row.id,
            bytes=row.size_bytes,
            created_at=int(row.created_at.timestamp()),
            expires_at=seconds(row.expires_at),
            filename=row.filename,
            purpose=row.purpose,
            status=row.status,
            status_details=row.status_details,
        )


class _FileInspection:
    """Looks at the fields, and at the rows of what is meant for training."""

    def __init__(self) -> None:
        self._check = LineCheck()
        self._filename: str | None = None

    def look(self, fields: Mapping[str, str], filename: str | None) -> None:
        """A form may name the purpose last."""
        if filename is not None and self._filename is None:
            self._filename = filename
            self._check = LineCheck(reader_of(filename))
        if "purpose" not in fields:
            return
        if check_purpose(fields["purpose"]) != "fine-tune":
            self._check.is_wanted = False
        elif self._check.problem is not None:
            raise self._check.problem

    def read(self, data: bytes) -> None:
        self._check.feed(data)

    def finish(self, fields: Mapping[str, str]) -> None:
        if "purpose" not in fields:
            raise form_file.missing("purpose")
        self.look(fields, self._filename)
        expires_after.of_form(fields)
        if fields["purpose"] == "fine-tune":
            self._check.finish()
            self.look(fields, self._filename)


def check_purpose(purpose: str) -> str:
    """The purpose itself. Raises InvalidRequest."""
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"{purpose!r} is not one of {list(PURPOSES)} - 'purpose'", param="purpose"
        )
    return purpose


def kept_for_s(purpose: str, expires_after_s: int | None) -> int | None:
    """The input of a batch goes after a month, unless the user says when; other files stay."""
    return BATCH_KEPT_FOR_S if expires_after_s is None and purpose == "batch" else expires_after_s


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": expires_after.MIN_S,
                            "maximum": expires_after.MAX_S,
                        },
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
async def create_file(request: Request, caller: ProjectCaller, wiring: Wired) -> FileObject:
    file_id = new_id("file-")
    key = files.blob_key(caller.project_id, file_id)
    received = await form_file.receive(
        request,
        wiring.blobs,
        key,
        field="file",
        max_bytes=MAX_BYTES,
        inspection=_FileInspection(),
    )
    purpose = received.fields["purpose"]
    # If this fails, the blob is an orphan; taking it away could rob a row that was committed after all.
    row = await wiring.database.run(
        files.create,
        file_id,
        project_id=caller.project_id,
        filename=received.filename,
        purpose=purpose,
        blob=received.blob,
        expires_after_s=kept_for_s(purpose, expires_after.of_form(received.fields)),
    )
    return FileObject.from_row(row)


@router.get("")
async def list_files(
    caller: ProjectCaller,
    wiring: Wired,
    purpose: str | None = None,
    after: After = None,
    limit: Annotated[int, limit(10_000)] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> PageWithIds[FileObject]:
    page = await wiring.database.run(
        files.page,
        caller.project_id,
        purpose=purpose,
        after=after,
        limit=limit,
        descending=order == "desc",
    )
    data = [FileObject.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([file.id for file in data]))


@router.get("/{file_id}")
async def retrieve_file(file_id: str, caller: ProjectCaller, wiring: Wired) -> FileObject:
    return FileObject.from_row(await wiring.database.run(files.get, caller.project_id, file_id))


@router.delete("/{file_id}")
async def delete_file(file_id: str, caller: ProjectCaller, wiring: Wired) -> FileDeleted:
    row = await wiring.database.run(files.remove, caller.project_id, file_id)
    await delete_blobs(wiring.blobs, [row.blob_key])
    return FileDeleted(id=file_id)


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The file's bytes; of a result file their base64, as OpenAI answers.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def file_content(file_id: str, caller: ProjectCaller, wiring: Wired) -> StreamingResponse:
    row = await wiring.database.run(files.get, caller.project_id, file_id)
    # The old API gave its result files as they are.
    is_as_of_old = row.filename == fine_tunes.RESULTS_FILENAME
    is_base64 = (
        row.purpose == RESULTS
        and not is_as_of_old
        and wiring.settings.result_file_encoding == "base64"
    )
    return await blob_response(
        wiring.blobs,
        row.blob_key,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        filename=row.filename,
        as_base64=is_base64,
    )
