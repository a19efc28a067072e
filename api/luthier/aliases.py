"""/v1/luthier/aliases: the project's own names for models, so that code keeps the name it has.

An alias may be any name, `ft:gpt-4o-mini-2024-07-18:acme:support:B7R9VjQd` for example; it works wherever a
model's name does, also as the model that a job trains on from. It can be bound anew at any time, which
moves all its users to another model at once. What already names a model cannot become an alias: a base's
name comes first anyway, so the alias would do nothing, and a tuned model would be hidden by it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, BeforeValidator, StringConstraints
from pydantic_core import PydanticCustomError
from sqlalchemy.orm import Session

from api.auth import ProjectCaller, check_owner
from api.gateway.moderation import GUARDS_ALIAS
from api.idempotency import CreatesOnce
from api.pages import After, Page, limit
from api.requests import bodies
from api.wiring import Wired
from foundation.errors import InvalidRequest, ModelNotFound
from storage.models import aliases, dialled, models, strengths
from storage.models.aliases import AliasRow
from storage.models.base_models import Catalogue
from storage.organization.api_keys import Caller

router = APIRouter(prefix="/v1/luthier/aliases", tags=["luthier"], route_class=CreatesOnce)


def _printable(value: Any) -> Any:
    if isinstance(value, str) and (not value.isprintable() or value != value.strip()):
        raise PydanticCustomError(
            "name", "only printable characters are allowed, and no space at either end."
        )
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=256), BeforeValidator(_printable)]


class BindAlias(BaseModel):
    alias: Name
    model: Name


class ModelAlias(BaseModel):
    object: Literal["model.alias"] = "model.alias"
    alias: str
    model: str
    """The base's id or the tuned model's name, with its strength if it has one."""
    created_at: int
    """When the alias was last bound."""

    @classmethod
    def from_row(cls, row: AliasRow) -> ModelAlias:
        return cls(alias=row.alias, model=row.model, created_at=int(row.created_at.timestamp()))


class AliasDeleted(BaseModel):
    object: Literal["model.alias"] = "model.alias"
    alias: str
    deleted: Literal[True] = True


@router.post("", openapi_extra=bodies.document(BindAlias))
async def bind_alias(
    body: Annotated[BindAlias, Depends(bodies.json_body(BindAlias))],
    caller: ProjectCaller,
    wiring: Wired,
) -> ModelAlias:
    """Makes the alias, or binds it anew."""
    _check_guard(caller, body.alias)
    row = await wiring.database.run(_bind, caller.project_id, body, wiring.catalogue())
    return ModelAlias.from_row(row)


@router.get("")
async def list_aliases(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 100,
) -> Page[ModelAlias]:
    """Aliases in their own order; `after` is an alias."""
    page = await wiring.database.run(aliases.page, caller.project_id, after=after, limit=limit)
    return Page(data=[ModelAlias.from_row(row) for row in page.rows], has_more=page.has_more)


@router.delete("/{alias:path}")
async def delete_alias(alias: str, caller: ProjectCaller, wiring: Wired) -> AliasDeleted:
    """The model stays."""
    _check_guard(caller, alias)
    await wiring.database.run(aliases.remove, caller.project_id, alias)
    return AliasDeleted(alias=alias)


def _check_guard(caller: Caller, alias: str) -> None:
    """Raises PermissionDenied: with another classifier a guard would let through whatever that finds safe."""
    if alias == GUARDS_ALIAS and caller.is_guarded:
        check_owner(caller, f"to bind '{alias}' anew, which this project's guard goes by,")


def _bind(session: Session, project_id: str, body: BindAlias, catalogue: Catalogue) -> AliasRow:
    # A tuned model's name at a strength is as much its own.
    plain, _ = strengths.split(body.alias)
    named = models.find(session, project_id, body.alias) or models.find(session, project_id, plain)
    is_model = named is not None and named[0].name in (body.alias, plain)
    if is_model or catalogue.get(body.alias) is not None:
        kind = "tuned model" if is_model else "base model"
        raise InvalidRequest(
            f"'{body.alias}' is a {kind}'s name and cannot be an alias.",
            param="alias",
            code="alias_not_available",
        )
    base = aliases.find_base(session, project_id, body.model, catalogue)
    found = models.find(session, project_id, body.model)
    if base is not None or found is not None:
        target = base.id if base is not None else found[0].name if found is not None else ""
        return aliases.bind(session, project_id, body.alias, target)
    at_strength = dialled.find(session, project_id, body.model, catalogue)
    if at_strength is None:
        raise ModelNotFound(body.model)
    return aliases.bind(session, project_id, body.alias, at_strength.name)
