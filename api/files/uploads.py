"""/v1/uploads: files that come in parts, for those that are too large for one request."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.auth import ProjectCaller
from api.blobs import delete_blobs
from api.idempotency import CreatesOnce
from api.requests.bodies import document, json_body
from api.wiring import Wired
from foundation.documents import reader_of
from foundation.errors import BlobMissing, InvalidRequest
from storage.files import files, uploads
from storage.files.files import FileRow
from storage.files.uploads import UploadRow
from storage.ids import new_id

from . import assembly
from .expires_after import ExpiresAfter
from .files import FileObject, check_purpose, kept_for_s
from .multipart import plain_name

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=CreatesOnce)

Name = Annotated[str, Field(min_length=1, max_length=1024)]


class CreateUpload(BaseModel):
    filename: Name
    purpose: str
    bytes: Annotated[int, Field(strict=True, ge=0, le=uploads.MAX_BYTES)]
    mime_type: Name
    """Not kept: a file is served as bytes, whatever it is said to be."""
    expires_after: ExpiresAfter | None = None


class CompleteUpload(BaseModel):
    part_ids: Annotated[list[str], Field(max_length=uploads.MAX_PARTS)]
    md5: Annotated[str, Field(max_length=100)] | None = None
    """Of the whole file, in hexadecimal."""


class Upload(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    expires_at: int
    file: FileObject | None

    @classmethod
    def from_row(cls, row: UploadRow, file: FileRow | None = None) -> Upload:
        return cls(
            id=row.id,
            bytes=row.size_bytes,
            created_at=int(row.created_at.timestamp()),
            filename=row.filename,
            purpose=row.purpose,
            status=row.status,
            expires_at=int(row.expires_at.timestamp()),
            file=FileObject.from_row(file) if file else None,
        )


@router.post("", openapi_extra=document(CreateUpload))
async def create_upload(
    caller: ProjectCaller,
    wiring: Wired,
    body: Annotated[CreateUpload, Depends(json_body(CreateUpload))],
) -> Upload:
    purpose = check_purpose(body.purpose)
    seconds = body.expires_after.seconds if body.expires_after else None
    row = await wiring.database.run(
        uploads.create,
        project_id=caller.project_id,
        filename=plain_name(body.filename.encode()),
        purpose=purpose,
        size_bytes=body.bytes,
        expires_after_s=kept_for_s(purpose, seconds),
    )
    return Upload.from_row(row)


@router.post("/{upload_id}/complete", openapi_extra=document(CompleteUpload))
async def complete_upload(
    upload_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    body: Annotated[CompleteUpload, Depends(json_body(CompleteUpload))],
) -> Upload:
    """Puts the parts together, in the order of `part_ids`; the reply comes when the file is there."""
    upload, parts = await wiring.database.run(
        uploads.chosen_parts, caller.project_id, upload_id, body.part_ids
    )
    file_id = new_id("file-")
    key = files.blob_key(caller.project_id, file_id)
    try:
        blob = await assembly.assemble(
            wiring.blobs,
            key,
            parts,
            md5=body.md5,
            reader=reader_of(upload.filename) if upload.purpose == "fine-tune" else None,
        )
    except BlobMissing:
        # Somebody else may have cancelled or completed it meanwhile, which is no fault of ours.
        await wiring.database.run(uploads.pending, caller.project_id, upload_id)
        raise
    try:
        row, file, part_keys = await wiring.database.run(
            uploads.complete, caller.project_id, upload_id, file_id, blob
        )
    except InvalidRequest:
        # Refused, so there is no row; after any other failure there might be one.
        await delete_blobs(wiring.blobs, [key])
        raise
    await delete_blobs(wiring.blobs, part_keys)
    return Upload.from_row(row, file)


@router.post("/{upload_id}/cancel")
async def cancel_upload(upload_id: str, caller: ProjectCaller, wiring: Wired) -> Upload:
    row, part_keys = await wiring.database.run(uploads.cancel, caller.project_id, upload_id)
    await delete_blobs(wiring.blobs, part_keys)
    return Upload.from_row(row)
