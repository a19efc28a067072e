"""/v1/luthier/models/{model}/export and /v1/luthier/exports: tuned models for use elsewhere. The errands process makes them.

`peft` is the adapter, `safetensors` a whole model that transformers loads, `gguf` one for llama.cpp; each with a model card and a
signed manifest. Only the project that owns a model can export it: a permission to use one does not hand out its weights.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.blobs import blob_response, delete_blobs
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, Page, limit
from api.requests import bodies
from api.ringing import ring
from api.wiring import Wired
from foundation.errors import InvalidRequest, ModelNotFound
from storage import queue
from storage.models import models, transfers
from storage.models.artifacts import MERGEABLE_KINDS, PEFT_KINDS
from storage.models.base_models import Catalogue
from storage.models.transfers import TransferRow
from storage.organization.api_keys import Caller

from .transfer import Status, TransferError

router = APIRouter(prefix="/v1/luthier", tags=["luthier"], route_class=CreatesOnce)

Format = Literal["peft", "safetensors", "gguf"]
Quantization = Literal["f16", "q8_0"]


class CreateExport(BaseModel):
    format: Format
    quantization: Quantization | None = None
    """Of `gguf` alone, where it is `f16` if nothing is said."""


class ExportedFile(BaseModel):
    name: str
    bytes: int
    sha256: str


class ModelExport(BaseModel):
    id: str
    object: Literal["luthier.export"] = "luthier.export"
    created_at: int
    finished_at: int | None
    expires_at: int | None
    """When its files go, some days after it has ended."""
    model: str
    format: Format
    quantization: Quantization | None
    status: Status
    progress: float
    """The share that is done, from 0 to 1."""
    error: TransferError | None
    files: list[ExportedFile] | None
    """What is in it, once it has succeeded."""
    bytes: int | None
    """Of the tar that `/content` gives."""

    @classmethod
    def from_row(cls, row: TransferRow) -> ModelExport:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            finished_at=seconds(row.finished_at),
            expires_at=seconds(row.expires_at),
            model=row.model or "",
            format=row.format,
            quantization=row.quantization,
            status=row.status,
            progress=row.progress,
            error=TransferError(**row.error) if row.error else None,
            files=None if row.files is None else [ExportedFile(**file) for file in row.files],
            bytes=row.size_bytes,
        )


class ExportDeleted(BaseModel):
    id: str
    object: Literal["luthier.export"] = "luthier.export"
    deleted: Literal[True] = True


@router.post("/models/{model:path}/export", openapi_extra=bodies.document(CreateExport))
async def create_export(
    model: str,
    body: Annotated[CreateExport, Depends(bodies.json_body(CreateExport))],
    caller: ProjectCaller,
    wiring: Wired,
) -> ModelExport:
    """Begins one; its state says how far it is, and its `/content` gives it once it has succeeded."""
    row = await wiring.database.run(_create, caller, model, body, wiring.catalogue())
    await ring(queue.run_errand, queue.RUN_TRANSFER, row.id)
    return ModelExport.from_row(row)


@router.get("/exports")
async def list_exports(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> Page[ModelExport]:
    page = await wiring.database.run(
        transfers.page, caller.project_id, "export", after=after, limit=limit
    )
    return Page(data=[ModelExport.from_row(row) for row in page.rows], has_more=page.has_more)


@router.get("/exports/{export_id}")
async def retrieve_export(export_id: str, caller: ProjectCaller, wiring: Wired) -> ModelExport:
    row = await wiring.database.read(transfers.get, caller.project_id, "export", export_id)
    return ModelExport.from_row(row)


@router.get(
    "/exports/{export_id}/content",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An uncompressed tar of the export's files",
            "content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def download_export(
    export_id: str, caller: ProjectCaller, wiring: Wired
) -> StreamingResponse:
    row = await wiring.database.run(transfers.get, caller.project_id, "export", export_id)
    if row.size_bytes is None or row.sha256 is None:
        raise InvalidRequest(
            f"The export {row.id} has no content: its status is '{row.status}'.", param="id"
        )
    return await blob_response(
        wiring.blobs,
        row.blob_key,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        filename=f"{row.id}.tar",
        media_type="application/x-tar",
    )


@router.post("/exports/{export_id}/cancel")
async def cancel_export(export_id: str, caller: ProjectCaller, wiring: Wired) -> ModelExport:
    """It ends at once."""
    row = await wiring.database.run(transfers.cancel, caller.project_id, "export", export_id)
    return ModelExport.from_row(row)


@router.delete("/exports/{export_id}")
async def delete_export(export_id: str, caller: ProjectCaller, wiring: Wired) -> ExportDeleted:
    """With its files, in whatever state it is. They also go with their model, and some days after their end."""
    key = await wiring.database.run(transfers.remove, caller.project_id, "export", export_id)
    await delete_blobs(wiring.blobs, [key])
    return ExportDeleted(id=export_id)


def _create(
    session: Session, caller: Caller, name: str, body: CreateExport, catalogue: Catalogue
) -> TransferRow:
    found = models.find(session, caller.project_id, name)
    if found is None or found[0].project_id != caller.project_id:
        if catalogue.get(name) is not None:
            raise InvalidRequest(
                f"The model '{name}' is a base model; tuned models can be exported.", param="model"
            )
        raise ModelNotFound(name)
    model, artifact = found
    _check_format(artifact.kind, body)
    is_gguf = body.format == "gguf"
    return transfers.create(
        session,
        "export",
        project_id=caller.project_id,
        model=model.name,
        base_model=model.base_model,
        format=body.format,
        quantization=(body.quantization or "f16") if is_gguf else None,
        owned_by=caller.organization_slug,
    )


def _check_format(kind: str, body: CreateExport) -> None:
    """Raises InvalidRequest for a form that a model of that kind does not have."""
    if body.format == "peft" and kind not in PEFT_KINDS:
        raise InvalidRequest(
            f"A model of the kind '{kind}' is no adapter, so PEFT has no format for it; export it as "
            "'safetensors' or 'gguf'.",
            param="format",
            code="invalid_value",
        )
    if body.format != "peft" and kind not in MERGEABLE_KINDS:
        raise InvalidRequest(
            f"A model of the kind '{kind}' is not a change of its base's weights, so it cannot be merged into "
            "them; export it as 'peft'.",
            param="format",
            code="invalid_value",
        )
    if body.format != "gguf" and body.quantization is not None:
        raise InvalidRequest(
            f"The format '{body.format}' has no quantization; leave it out, or use the format 'gguf'.",
            param="quantization",
            code="invalid_value",
        )
