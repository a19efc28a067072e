"""/v1/uploads/{upload_id}/parts: each part is a blob of its own until the upload is completed."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from api.auth import ProjectCaller
from api.blobs import delete_blobs
from api.idempotency import CreatesOnce
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.files import upload_parts, uploads
from storage.files.upload_parts import UploadPartRow
from storage.ids import new_id

from . import form_file

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=CreatesOnce)


class UploadPart(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def from_row(cls, row: UploadPartRow) -> UploadPart:
        return cls(id=row.id, created_at=int(row.created_at.timestamp()), upload_id=row.upload_id)


_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("/{upload_id}/parts", openapi_extra=_FORM)
async def create_upload_part(
    upload_id: str, request: Request, caller: ProjectCaller, wiring: Wired
) -> UploadPart:
    """Parts may come in any order and side by side: `complete` says which there are, and in what order."""
    await wiring.database.run(uploads.pending, caller.project_id, upload_id)
    part_id = new_id("part_")
    received = await form_file.receive(
        request,
        wiring.blobs,
        upload_parts.blob_key(upload_id, part_id),
        field="data",
        max_bytes=upload_parts.MAX_BYTES,
    )
    try:
        row = await wiring.database.run(
            uploads.add_part, caller.project_id, upload_id, part_id, received.blob
        )
    except InvalidRequest:
        # Refused, so there is no row; after any other failure there might be one.
        await delete_blobs(wiring.blobs, [received.blob.key])
        raise
    return UploadPart.from_row(row)
