"""/v1/organization/projects/{project_id}/api_keys: the keys of a project. New ones are a service account's."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.auth import of_organization
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.organization import api_keys, projects, service_accounts
from storage.organization.api_keys import ApiKeyRow
from storage.organization.service_accounts import ServiceAccountRow

from .service_accounts import ExpiryS, refuse_scopes

router = APIRouter(
    prefix="/v1/organization/projects/{project_id}/api_keys",
    tags=["organization"],
    dependencies=[Depends(of_organization)],
)


class UpdateProjectKey(BaseModel):
    expires_in_seconds: ExpiryS | None = None
    scopes: Annotated[list[str], Field(max_length=100)] | None = None


class KeyServiceAccount(BaseModel):
    id: str
    created_at: int
    name: str
    role: str


class KeyOwner(BaseModel):
    """Nobody owns the keys that the operator made when the server was set up."""

    type: Literal["service_account"] | None
    service_account: KeyServiceAccount | None
    user: None = None


class ProjectKey(BaseModel):
    id: str
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    name: str
    owner: KeyOwner
    owner_project_access: Literal["active"] = "active"
    redacted_value: str


class ProjectKeyDeleted(BaseModel):
    id: str
    object: Literal["organization.project.api_key.deleted"] = "organization.project.api_key.deleted"
    deleted: Literal[True] = True


@router.get("")
async def list_project_keys(
    project_id: str,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    owner_project_access: Literal["active", "inactive", "any"] = "any",
) -> PageWithIds[ProjectKey]:
    """Oldest first; expired ones, too. A key goes with its owner, so no owner is ever `inactive`."""
    data, has_more = await wiring.database.run(
        _page, project_id, after, 0 if owner_project_access == "inactive" else limit
    )
    return PageWithIds(data=data, has_more=has_more, **ends([it.id for it in data]))


@router.get("/{api_key_id}")
async def retrieve_project_key(
    project_id: str,
    api_key_id: str,
    wiring: Wired,
) -> ProjectKey:
    return await wiring.database.run(_get, project_id, api_key_id)


@router.post("/{api_key_id}", openapi_extra=bodies.document(UpdateProjectKey, is_required=False))
async def update_project_key(
    project_id: str,
    api_key_id: str,
    body: Annotated[
        UpdateProjectKey,
        Depends(bodies.json_body(UpdateProjectKey, by=of_organization, is_required=False)),
    ],
    wiring: Wired,
) -> ProjectKey:
    refuse_scopes(body.scopes)
    return await wiring.database.run(_update, project_id, api_key_id, body.expires_in_seconds)


@router.delete("/{api_key_id}")
async def delete_project_key(
    project_id: str,
    api_key_id: str,
    wiring: Wired,
) -> ProjectKeyDeleted:
    """It stops working with the next request."""
    await wiring.database.run(api_keys.revoke, project_id, api_key_id)
    return ProjectKeyDeleted(id=api_key_id)


def _page(
    session: Session, project_id: str, after: str | None, limit: int
) -> tuple[list[ProjectKey], bool]:
    projects.get(session, project_id)
    page = api_keys.page(session, project_id, after=after, limit=limit)
    ids = [row.service_account_id for row in page.rows if row.service_account_id]
    accounts = service_accounts.by_ids(session, ids)
    return [
        _wire(row, accounts.get(row.service_account_id or "")) for row in page.rows
    ], page.has_more


def _get(session: Session, project_id: str, key_id: str) -> ProjectKey:
    row = api_keys.get(session, project_id, key_id)
    ids = [row.service_account_id] if row.service_account_id else []
    return _wire(row, next(iter(service_accounts.by_ids(session, ids).values()), None))


def _update(session: Session, project_id: str, key_id: str, expires_in_s: int | None) -> ProjectKey:
    row = api_keys.get(session, project_id, key_id)
    if expires_in_s is not None:
        if not api_keys.is_unexpired(session, row):
            raise InvalidRequest("The API key has expired and cannot be changed.")
        api_keys.set_expiry(session, row, expires_in_s)
    return _get(session, project_id, key_id)


def _wire(row: ApiKeyRow, account: ServiceAccountRow | None) -> ProjectKey:
    return ProjectKey(
        id=row.id,
        created_at=int(row.created_at.timestamp()),
        expires_at=seconds(row.expires_at),
        last_used_at=seconds(row.last_used_at),
        name=row.name,
        owner=KeyOwner(
            type="service_account" if account else None,
            service_account=account
            and KeyServiceAccount(
                id=account.id,
                created_at=int(account.created_at.timestamp()),
                name=account.name,
                role=account.role,
            ),
        ),
        redacted_value=f"sk-{'svcacct' if account else 'proj'}-...{row.hint}",
    )
