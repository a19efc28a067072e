"""/v1/organization/projects/{project_id}/rate_limits: how many requests and tokens a minute a project may send and use,
and its share of the inference servers.

OpenAI has limits a model; here the models of a project share one, which is called `rl-all-models`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from api.auth import of_organization
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.wiring import Wired
from foundation.errors import InvalidRequest, NotFound
from storage.organization import projects
from storage.organization.projects import ProjectRow

router = APIRouter(
    prefix="/v1/organization/projects/{project_id}/rate_limits",
    tags=["organization"],
    dependencies=[Depends(of_organization)],
)

ID: Literal["rl-all-models"] = "rl-all-models"
MAX_PER_MINUTE = 2**31 - 1
MAX_WEIGHT = 100
NOT_KEPT = (
    "max_images_per_1_minute",
    "max_audio_megabytes_per_1_minute",
    "max_requests_per_1_day",
    "batch_1_day_max_input_tokens",
)
"""Limits of OpenAI's that this server does not hold anybody to."""

PerMinute = Annotated[int, Field(strict=True, ge=0, le=MAX_PER_MINUTE)]


class Share(BaseModel):
    """What OpenAI's limits have no word for."""

    weight: Annotated[int, Field(strict=True, ge=1, le=MAX_WEIGHT)]
    """Of the project's share of the inference servers: where two want all, one of weight 3 gets three times as much as
    one of weight 1."""


class UpdateRateLimit(BaseModel):
    """0: whatever the server's settings say."""

    max_requests_per_1_minute: PerMinute | None = None
    max_tokens_per_1_minute: PerMinute | None = None
    luthier: Share | None = None
    max_images_per_1_minute: int | None = None
    max_audio_megabytes_per_1_minute: int | None = None
    max_requests_per_1_day: int | None = None
    batch_1_day_max_input_tokens: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what would be ignored."""
        for param in NOT_KEPT:
            if getattr(self, param) is not None:
                raise InvalidRequest(
                    f"Unsupported parameter: '{param}' is not limited by this server.",
                    param=param,
                    code="unsupported_parameter",
                )


class RateLimit(BaseModel):
    id: Literal["rl-all-models"] = ID
    object: Literal["project.rate_limit"] = "project.rate_limit"
    model: Literal["*"] = "*"
    max_requests_per_1_minute: int
    max_tokens_per_1_minute: int
    """0: as many as they like."""
    luthier: Share

    @classmethod
    def of(cls, row: ProjectRow, wiring: Wired) -> RateLimit:
        settings = wiring.settings
        return cls(
            max_requests_per_1_minute=row.requests_per_minute or settings.requests_per_minute,
            max_tokens_per_1_minute=row.tokens_per_minute or settings.tokens_per_minute,
            luthier=Share(weight=row.weight),
        )


@router.get("")
async def list_rate_limits(
    project_id: str,
    wiring: Wired,
    after: After = None,
    before: str | None = None,
    limit: Annotated[int, limit(100)] = 100,
) -> PageWithIds[RateLimit]:
    row = await wiring.database.run(projects.get, project_id)
    data = [RateLimit.of(row, wiring)] if limit and after is None and before is None else []
    return PageWithIds(data=data, has_more=False, **ends([it.id for it in data]))


@router.post("/{rate_limit_id}", openapi_extra=bodies.document(UpdateRateLimit))
async def update_rate_limit(
    project_id: str,
    rate_limit_id: str,
    body: Annotated[
        UpdateRateLimit, Depends(bodies.json_body(UpdateRateLimit, by=of_organization))
    ],
    wiring: Wired,
) -> RateLimit:
    """What is left out stays as it is."""
    body.check()
    if rate_limit_id != ID:
        raise NotFound(f"No rate limit found with id '{rate_limit_id}'. This server's is '{ID}'.")
    row = await wiring.database.run(
        projects.limit,
        project_id,
        requests_per_minute=body.max_requests_per_1_minute,
        tokens_per_minute=body.max_tokens_per_1_minute,
        weight=body.luthier.weight if body.luthier is not None else None,
    )
    return RateLimit.of(row, wiring)
