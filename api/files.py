"""/v1/files: upload, list, retrieve, delete, content."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from storage import files
from storage.files import FileRow
from storage.ids import new_id

from . import uploads
from .auth import ProjectCaller
from .blobs import blob_response, delete_blobs
from .pages import After, PageWithIds, ends, limit
from .wiring import Wired

router = APIRouter(prefix="/v1/files", tags=["files"])

RESULTS = "fine-tune-results"


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
            expires_at=int(row.expires_at.timestamp()) if row.expires_at else None,
            filename=row.filename,
            purpose=row.purpose,
            status=row.status,
            status_details=row.status_details,
        )


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
                        "purpose": {"type": "string", "enum": list(uploads.PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": uploads.MIN_EXPIRY_S,
                            "maximum": uploads.MAX_EXPIRY_S,
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
    upload = await uploads.receive(request, wiring.blobs, key)
    # If this fails, the blob is an orphan; taking it away could rob a row that was committed after all.
    row = await wiring.database.run(
        files.create,
        file_id,
        project_id=caller.project_id,
        filename=upload.filename,
        purpose=upload.purpose,
        blob=upload.blob,
        expires_after_s=upload.expires_after_s,
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
    is_base64 = row.purpose == RESULTS and wiring.settings.result_file_encoding == "base64"
    return await blob_response(
        wiring.blobs,
        row.blob_key,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        filename=row.filename,
        as_base64=is_base64,
    )
