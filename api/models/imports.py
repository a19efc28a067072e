"""/v1/luthier/imports: LoRA adapters in PEFT's format that were made elsewhere become models. The errands process checks them.

The adapter's folder is uploaded through the files API as a tar or zip, with the purpose `user_data`; once it is imported, that file may
be deleted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.fine_tuning.jobs import starting_point
from api.fine_tuning.request import Suffix
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, Page, limit
from api.requests import bodies
from api.requests.fields import Name
from api.ringing import ring
from api.wiring import Wired
from foundation.errors import InvalidRequest
from foundation.settings import Settings
from storage import queue
from storage.files import files
from storage.models import transfers
from storage.models.base_models import Catalogue
from storage.models.transfers import TransferRow
from storage.organization.api_keys import Caller

from .transfer import Status, TransferError

router = APIRouter(prefix="/v1/luthier/imports", tags=["luthier"], route_class=CreatesOnce)


class CreateImport(BaseModel):
    file_id: Name
    model: Name
    """The base that the adapter was trained on."""
    suffix: Suffix | None = None


class ModelImport(BaseModel):
    id: str
    object: Literal["luthier.import"] = "luthier.import"
    created_at: int
    finished_at: int | None
    file_id: str
    base_model: str
    status: Status
    error: TransferError | None
    model: str | None
    """The new model's name, once it has succeeded."""

    @classmethod
    def from_row(cls, row: TransferRow) -> ModelImport:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            finished_at=seconds(row.finished_at),
            file_id=row.file_id or "",
            base_model=row.base_model,
            status=row.status,
            error=TransferError(**row.error) if row.error else None,
            model=row.model,
        )


@router.post("", openapi_extra=bodies.document(CreateImport))
async def create_import(
    body: Annotated[CreateImport, Depends(bodies.json_body(CreateImport))],
    caller: ProjectCaller,
    wiring: Wired,
) -> ModelImport:
    """What is wrong with the adapter is told by the import, which fails then."""
    row = await wiring.database.run(_create, caller, body, wiring.settings, wiring.catalogue())
    await ring(queue.run_errand, queue.RUN_TRANSFER, row.id)
    return ModelImport.from_row(row)


@router.get("")
async def list_imports(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> Page[ModelImport]:
    page = await wiring.database.run(
        transfers.page, caller.project_id, "import", after=after, limit=limit
    )
    return Page(data=[ModelImport.from_row(row) for row in page.rows], has_more=page.has_more)


@router.get("/{import_id}")
async def retrieve_import(import_id: str, caller: ProjectCaller, wiring: Wired) -> ModelImport:
    row = await wiring.database.read(transfers.get, caller.project_id, "import", import_id)
    return ModelImport.from_row(row)


@router.post("/{import_id}/cancel")
async def cancel_import(import_id: str, caller: ProjectCaller, wiring: Wired) -> ModelImport:
    """It ends at once, and makes no model."""
    row = await wiring.database.run(transfers.cancel, caller.project_id, "import", import_id)
    return ModelImport.from_row(row)


def _create(
    session: Session, caller: Caller, body: CreateImport, settings: Settings, catalogue: Catalogue
) -> TransferRow:
    start = starting_point(session, caller, body.model, settings, catalogue)
    if start.init_artifact_id is not None:
        raise InvalidRequest(
            f"The model '{body.model}' is a tuned one; name the base that the adapter was trained on, "
            f"{start.base_model}.",
            param="model",
        )
    if files.find(session, caller.project_id, body.file_id) is None:
        raise InvalidRequest(f"No such File object: {body.file_id}", param="file_id")
    return transfers.create(
        session,
        "import",
        project_id=caller.project_id,
        base_model=start.base_model,
        file_id=body.file_id,
        suffix=body.suffix,
        owned_by=caller.organization_slug,
    )
