"""/v1/models: the bases that are served, and the tuned models and checkpoints that the project can use, by their names.

Aliases are not listed, neither the operator's nor the project's own (`/v1/luthier/aliases` lists those): the
list holds each model once, under the name that jobs report. They can be retrieved and used like models.
"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.blobs import delete_blobs
from api.wiring import Wired
from foundation.errors import ModelNotFound, ModelNotServed, NotFound, PermissionDenied
from foundation.settings import Settings
from storage.models import aliases, artifacts, dialled, models, transfers
from storage.models.artifacts import ArtifactRow
from storage.models.base_models import Catalogue
from storage.models.models import ModelRow

router = APIRouter(prefix="/v1/models", tags=["models"])

BASE_CREATED = 0
"""When a base was made is not known here, and clients want a number."""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: None = None

    @classmethod
    def from_row(cls, row: ModelRow, *, name: str | None = None) -> Model:
        """`name` is what it was asked for by, if that is an alias."""
        created = int(row.created_at.timestamp())
        return cls(id=name or row.name, created=created, owned_by=row.owned_by)


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ModelDeleted(BaseModel):
    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


@router.get("")
async def list_models(caller: ProjectCaller, wiring: Wired) -> ModelList:
    """Never paginated, as in OpenAI's API."""
    rows = await wiring.database.run(models.all, caller.project_id)
    bases = [
        _base(base.id) for base in wiring.catalogue().all() if wiring.settings.is_available(base.id)
    ]
    return ModelList(data=bases + [Model.from_row(row) for row in rows])


@router.get("/{model:path}")
async def retrieve_model(model: str, caller: ProjectCaller, wiring: Wired) -> Model:
    """Find a model by its name or an alias; the reply's id is what was asked for."""
    return await wiring.database.run(
        _retrieve, caller.project_id, model, wiring.settings, wiring.catalogue()
    )


@router.delete("/{model:path}")
async def delete_model(model: str, caller: ProjectCaller, wiring: Wired) -> ModelDeleted:
    """Takes the name away, and its artifact unless another name or an unfinished job needs it.

    Only the project that owns a model can delete it, and nobody a base.
    """
    if wiring.catalogue().get(model) is not None:
        raise PermissionDenied(f"The model '{model}' is a base model and cannot be deleted.")
    artifact, keys = await wiring.database.run(_remove, caller.project_id, model)
    await delete_blobs(wiring.blobs, keys)
    if artifact is not None:
        await wiring.backends.unload(artifact.base_model, artifact.id)
    return ModelDeleted(id=model)


def _base(name: str) -> Model:
    return Model(id=name, created=BASE_CREATED, owned_by="system")


def _retrieve(
    session: Session, project_id: str, name: str, settings: Settings, catalogue: Catalogue
) -> Model:
    base = aliases.find_base(session, project_id, name, catalogue)
    if base is not None:
        if not settings.is_available(base.id):
            raise ModelNotServed(base.id, settings.backends, status=404)
        return _base(name)
    found = models.find(session, project_id, name)
    if found is not None:
        return Model.from_row(found[0], name=name)
    at_strength = dialled.find(session, project_id, name, catalogue)
    if at_strength is not None:
        return Model.from_row(at_strength.model, name=name)
    target = aliases.target(session, project_id, name)
    if target is not None:
        raise NotFound(
            f"The model '{name}' does not exist: it is an alias of '{target}', which is gone.",
            param="model",
            code="model_not_found",
        )
    raise ModelNotFound(name)


def _remove(session: Session, project_id: str, name: str) -> tuple[ArtifactRow | None, list[str]]:
    """The model's artifact if nothing refers to it any more, and the keys of its blob and of the model's exports."""
    exports = transfers.blob_keys_of_model(session, project_id, name)
    artifact_id = models.remove(session, project_id, name)
    artifact = artifacts.get(session, artifact_id)
    unused = artifacts.remove_unused(session, [artifact_id])
    return artifact if unused else None, unused + exports
