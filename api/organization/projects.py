"""/v1/organization/projects: the tenants, for who holds an admin key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.auth import of_organization
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Name
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.organization import projects
from storage.organization.projects import ProjectRow

router = APIRouter(
    prefix="/v1/organization/projects",
    tags=["organization"],
    dependencies=[Depends(of_organization)],
    route_class=CreatesOnce,
)


class CreateProject(BaseModel):
    """What this server does not do with a project's data is refused, not ignored."""

    name: Name
    external_key_id: str | None = None
    geography: str | None = None
    residency: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest."""
        for param in ("external_key_id", "geography"):
            _refuse(param, getattr(self, param))
        if self.residency != "GLOBAL":
            _refuse("residency", self.residency)


class UpdateProject(BaseModel):
    name: Name | None = None
    external_key_id: str | None = None
    geography: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest."""
        for param in ("external_key_id", "geography"):
            _refuse(param, getattr(self, param))


class Project(BaseModel):
    id: str
    object: Literal["organization.project"] = "organization.project"
    archived_at: int | None
    created_at: int
    external_key_id: None = None
    name: str
    residency: None = None
    status: Literal["active", "archived"]

    @classmethod
    def from_row(cls, row: ProjectRow) -> Project:
        return cls(
            id=row.id,
            archived_at=seconds(row.archived_at),
            created_at=int(row.created_at.timestamp()),
            name=row.name,
            status="archived" if row.archived_at else "active",
        )


@router.post("", openapi_extra=bodies.document(CreateProject))
async def create_project(
    body: Annotated[CreateProject, Depends(bodies.json_body(CreateProject, by=of_organization))],
    wiring: Wired,
) -> Project:
    body.check()
    return Project.from_row(await wiring.database.run(projects.create, body.name))


@router.get("")
async def list_projects(
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    include_archived: bool = False,
) -> PageWithIds[Project]:
    """Oldest first."""
    page = await wiring.database.run(
        projects.page, include_archived=include_archived, after=after, limit=limit
    )
    data = [Project.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([it.id for it in data]))


@router.get("/{project_id}")
async def retrieve_project(
    project_id: str,
    wiring: Wired,
) -> Project:
    return Project.from_row(await wiring.database.run(projects.get, project_id))


@router.post("/{project_id}", openapi_extra=bodies.document(UpdateProject))
async def update_project(
    project_id: str,
    body: Annotated[UpdateProject, Depends(bodies.json_body(UpdateProject, by=of_organization))],
    wiring: Wired,
) -> Project:
    body.check()
    return Project.from_row(await wiring.database.run(projects.rename, project_id, body.name))


@router.post("/{project_id}/archive")
async def archive_project(
    project_id: str,
    wiring: Wired,
) -> Project:
    """Its keys stop working with the next request; what it holds stays. There is no way back."""
    return Project.from_row(await wiring.database.run(projects.archive, project_id))


def _refuse(param: str, value: Any) -> None:
    if value is not None:
        raise InvalidRequest(
            f"Invalid '{param}': this server keeps every project's data in the one place that its "
            "operator chose, and with no keys of customers.",
            param=param,
            code="invalid_value",
        )
