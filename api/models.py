"""/v1/models: the bases, and the project's tuned models and checkpoints by their names."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from storage import adapters, models
from storage.errors import ModelNotFound, PermissionDenied
from storage.models import ModelRow

from .auth import ProjectCaller
from .blobs import delete_blobs
from .wiring import Wired

router = APIRouter(prefix="/v1/models", tags=["models"])

BASE_CREATED = 0
"""When a base was made is not known here, and clients want a number."""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str

    @classmethod
    def from_row(cls, row: ModelRow) -> Model:
        return cls(id=row.name, created=int(row.created_at.timestamp()), owned_by=row.owned_by)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


@router.get("")
async def list_models(caller: ProjectCaller, wiring: Wired) -> ModelList:
    """Never paginated, as in OpenAI's API. Aliases are not listed, but can be retrieved and used."""
    rows = await wiring.database.run(models.all, caller.project_id)
    bases = [_base(base.id) for base in wiring.catalogue().all()]
    return ModelList(data=bases + [Model.from_row(row) for row in rows])


@router.get("/{model:path}")
async def retrieve_model(model: str, caller: ProjectCaller, wiring: Wired) -> Model:
    if wiring.catalogue().get(model) is not None:
        return _base(model)
    found = await wiring.database.run(models.find, caller.project_id, model)
    if found is None:
        raise ModelNotFound(model)
    return Model.from_row(found[0])


@router.delete("/{model:path}")
async def delete_model(model: str, caller: ProjectCaller, wiring: Wired) -> ModelDeleted:
    """Takes the name away, and its adapter unless another name or a running job needs it."""
    if wiring.catalogue().get(model) is not None:
        raise PermissionDenied(f"The model '{model}' is a base model and cannot be deleted.")
    keys = await wiring.database.run(_remove, caller.project_id, model)
    await delete_blobs(wiring.blobs, keys)
    return ModelDeleted(id=model)


def _base(name: str) -> Model:
    return Model(id=name, created=BASE_CREATED, owned_by="system")


def _remove(session: Session, project_id: str, name: str) -> list[str]:
    """The keys of blobs that nothing refers to any more."""
    adapter_id = models.remove(session, project_id, name)
    return adapters.remove_unused(session, [adapter_id])
