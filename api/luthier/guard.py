"""/v1/luthier/guard: whether the project's inference is guarded by its classifier for moderation (`api/gateway/guard.py`)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.auth import ProjectCaller, check_owner
from api.gateway import moderation
from api.idempotency import CreatesOnce
from api.requests import bodies
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.organization import projects
from storage.organization.api_keys import Caller

router = APIRouter(prefix="/v1/luthier/guard", tags=["luthier"], route_class=CreatesOnce)

Flag = Annotated[bool, Field(strict=True)]


class SetGuard(BaseModel):
    """What is left out stays as it is."""

    input: Flag | None = None
    output: Flag | None = None


class Guard(BaseModel):
    object: Literal["luthier.guard"] = "luthier.guard"
    input: bool
    """What users write is judged before a model reads it."""
    output: bool
    """What a model answers is judged before anybody reads it, where it is not streamed."""
    model: str | None
    """By which classifier; null where there is none."""


@router.get("")
async def retrieve_guard(caller: ProjectCaller, wiring: Wired) -> Guard:
    return Guard(
        input=caller.guards_input,
        output=caller.guards_output,
        model=await _model(caller, wiring),
    )


@router.post("", openapi_extra=bodies.document(SetGuard))
async def set_guard(
    body: Annotated[SetGuard, Depends(bodies.json_body(SetGuard))],
    caller: ProjectCaller,
    wiring: Wired,
) -> Guard:
    """From the next request on. Where it is put on there must be a classifier: without one, nothing would be let through."""
    check_owner(caller, "to change a project's guard")
    if body.input or body.output:
        await moderation.find(wiring, caller)
    row = await wiring.database.run(
        lambda session: projects.guard(
            session, caller.project_id, guards_input=body.input, guards_output=body.output
        )
    )
    return Guard(
        input=row.guards_input, output=row.guards_output, model=await _model(caller, wiring)
    )


async def _model(caller: Caller, wiring: Wired) -> str | None:
    try:
        judge = await moderation.find(wiring, caller)
    except InvalidRequest:
        return None
    return judge.target.canonical_name
