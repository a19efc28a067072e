"""/v1/fine_tuning/checkpoints/{model}/permissions: which other projects may use a tuned model.

The project that owns the model manages them, with its own key; so does an admin key, for any model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.auth import authenticate
from api.idempotency import CreatesOnce
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Name
from api.wiring import Wired
from foundation.errors import ModelNotFound
from storage import pages
from storage.models import models, permissions
from storage.models.models import ModelRow
from storage.models.permissions import PermissionRow
from storage.organization.api_keys import Caller

router = APIRouter(
    prefix="/v1/fine_tuning/checkpoints", tags=["fine-tuning"], route_class=CreatesOnce
)

MAX_PROJECTS = 100

Manager = Annotated[Caller, Depends(authenticate)]
"""By a key of either kind: OpenAI's clients differ in which one they send here."""


class CreatePermissions(BaseModel):
    project_ids: Annotated[list[Name], Field(min_length=1, max_length=MAX_PROJECTS)]


class Permission(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    created_at: int
    project_id: str

    @classmethod
    def from_row(cls, row: PermissionRow) -> Permission:
        return cls(id=row.id, created_at=int(row.created_at.timestamp()), project_id=row.project_id)


class PermissionDeleted(BaseModel):
    id: str
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    deleted: Literal[True] = True


@router.post(
    "/{fine_tuned_model_checkpoint:path}/permissions",
    openapi_extra=bodies.document(CreatePermissions),
)
async def create_permissions(
    fine_tuned_model_checkpoint: str,
    body: Annotated[
        CreatePermissions, Depends(bodies.json_body(CreatePermissions, by=authenticate))
    ],
    caller: Manager,
    wiring: Wired,
) -> PageWithIds[Permission]:
    """Let projects of the same organisation use the model; one that has a permission already keeps it."""
    rows = await wiring.database.run(_create, caller, fine_tuned_model_checkpoint, body.project_ids)
    return _page(rows, has_more=False)


@router.get("/{fine_tuned_model_checkpoint:path}/permissions")
async def list_permissions(
    fine_tuned_model_checkpoint: str,
    caller: Manager,
    wiring: Wired,
    project_id: str | None = None,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 10,
    order: Annotated[Literal["ascending", "descending"], Query()] = "descending",
) -> PageWithIds[Permission]:
    """Permissions by the time they were created."""
    page = await wiring.database.run(
        _list,
        caller,
        fine_tuned_model_checkpoint,
        project_id=project_id,
        after=after,
        limit=limit,
        descending=order == "descending",
    )
    return _page(page.rows, has_more=page.has_more)


@router.delete("/{fine_tuned_model_checkpoint:path}/permissions/{permission_id}")
async def delete_permission(
    fine_tuned_model_checkpoint: str, permission_id: str, caller: Manager, wiring: Wired
) -> PermissionDeleted:
    """The other project's jobs that have begun from the model go on."""
    await wiring.database.run(_remove, caller, fine_tuned_model_checkpoint, permission_id)
    return PermissionDeleted(id=permission_id)


def _page(rows: list[PermissionRow], *, has_more: bool) -> PageWithIds[Permission]:
    data = [Permission.from_row(row) for row in rows]
    return PageWithIds(data=data, has_more=has_more, **ends([each.id for each in data]))


def _create(
    session: Session, caller: Caller, name: str, project_ids: list[str]
) -> list[PermissionRow]:
    return permissions.create(session, _managed(session, caller, name), project_ids)


def _list(
    session: Session,
    caller: Caller,
    name: str,
    *,
    project_id: str | None,
    after: str | None,
    limit: int,
    descending: bool,
) -> pages.RowPage[PermissionRow]:
    return permissions.page(
        session,
        _managed(session, caller, name).name,
        project_id=project_id,
        after=after,
        limit=limit,
        descending=descending,
    )


def _remove(session: Session, caller: Caller, name: str, permission_id: str) -> None:
    permissions.remove(session, _managed(session, caller, name).name, permission_id)


def _managed(session: Session, caller: Caller, name: str) -> ModelRow:
    """A model that is the caller's to share; another's answers as an unknown one."""
    owner = None if caller.kind == "admin" else caller.project_id
    row = models.find_own(session, owner, name)
    if row is None:
        raise ModelNotFound(name)
    return row
