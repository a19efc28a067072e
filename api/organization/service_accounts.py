"""/v1/organization/projects/{project_id}/service_accounts: a project's callers, and keys for them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.auth import of_organization
from api.idempotency import CreatesSecretOnce
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Name
from api.wiring import Wired
from foundation.errors import InvalidRequest
from storage.ids import new_id
from storage.organization import api_keys, projects, service_accounts
from storage.organization.api_keys import ApiKeyRow
from storage.organization.service_accounts import Role, ServiceAccountRow

router = APIRouter(
    prefix="/v1/organization/projects/{project_id}/service_accounts",
    tags=["organization"],
    dependencies=[Depends(of_organization)],
    route_class=CreatesSecretOnce,
)

MAX_EXPIRY_S = 31_536_000
ExpiryS = Annotated[int, Field(ge=1, le=MAX_EXPIRY_S)]


class CreateServiceAccount(BaseModel):
    name: Name
    create_service_account_only: bool | None = None
    expires_in_seconds: ExpiryS | None = None


class UpdateServiceAccount(BaseModel):
    name: Name | None = None
    role: Literal["member", "owner"] | None = None


class CreateServiceAccountKey(BaseModel):
    name: Name = "Secret key"
    expires_in_seconds: ExpiryS | None = None
    scopes: Annotated[list[str], Field(max_length=100)] | None = None


class ServiceAccountKey(BaseModel):
    """The one reply that shows the key."""

    id: str
    object: Literal["organization.project.service_account.api_key"] = (
        "organization.project.service_account.api_key"
    )
    created_at: int
    expires_at: int | None
    name: str
    value: str


class ServiceAccount(BaseModel):
    id: str
    object: Literal["organization.project.service_account"] = "organization.project.service_account"
    created_at: int
    name: str
    role: Role

    @classmethod
    def from_row(cls, row: ServiceAccountRow) -> ServiceAccount:
        return cls(
            id=row.id, created_at=int(row.created_at.timestamp()), name=row.name, role=row.role
        )


class ServiceAccountWithKey(ServiceAccount):
    api_key: ServiceAccountKey | None


class ServiceAccountDeleted(BaseModel):
    id: str
    object: Literal["organization.project.service_account.deleted"] = (
        "organization.project.service_account.deleted"
    )
    deleted: Literal[True] = True


@router.post("", openapi_extra=bodies.document(CreateServiceAccount))
async def create_service_account(
    project_id: str,
    body: Annotated[
        CreateServiceAccount, Depends(bodies.json_body(CreateServiceAccount, by=of_organization))
    ],
    wiring: Wired,
) -> ServiceAccountWithKey:
    """Create an account with its first key, unless only the account is asked for."""
    return await wiring.database.run(_create, project_id, body)


@router.get("")
async def list_service_accounts(
    project_id: str,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> PageWithIds[ServiceAccount]:
    """Oldest first."""
    await wiring.database.run(projects.get, project_id)
    page = await wiring.database.run(service_accounts.page, project_id, after=after, limit=limit)
    data = [ServiceAccount.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([it.id for it in data]))


@router.get("/{service_account_id}")
async def retrieve_service_account(
    project_id: str,
    service_account_id: str,
    wiring: Wired,
) -> ServiceAccount:
    row = await wiring.database.run(service_accounts.get, project_id, service_account_id)
    return ServiceAccount.from_row(row)


@router.post("/{service_account_id}", openapi_extra=bodies.document(UpdateServiceAccount))
async def update_service_account(
    project_id: str,
    service_account_id: str,
    body: Annotated[
        UpdateServiceAccount, Depends(bodies.json_body(UpdateServiceAccount, by=of_organization))
    ],
    wiring: Wired,
) -> ServiceAccount:
    """Keys of an `owner` may change the project's guard; otherwise every key of a project may do the same."""
    row = await wiring.database.run(
        service_accounts.update, project_id, service_account_id, name=body.name, role=body.role
    )
    return ServiceAccount.from_row(row)


@router.delete("/{service_account_id}")
async def delete_service_account(
    project_id: str,
    service_account_id: str,
    wiring: Wired,
) -> ServiceAccountDeleted:
    """Its keys stop working with the next request."""
    await wiring.database.run(_delete, project_id, service_account_id)
    return ServiceAccountDeleted(id=service_account_id)


@router.post(
    "/{service_account_id}/api_keys",
    openapi_extra=bodies.document(CreateServiceAccountKey, is_required=False),
)
async def create_service_account_key(
    project_id: str,
    service_account_id: str,
    body: Annotated[
        CreateServiceAccountKey,
        Depends(bodies.json_body(CreateServiceAccountKey, by=of_organization, is_required=False)),
    ],
    wiring: Wired,
) -> ServiceAccountKey:
    refuse_scopes(body.scopes)
    return await wiring.database.run(_add_key, project_id, service_account_id, body)


def refuse_scopes(scopes: list[str] | None) -> None:
    """A key that is believed to be restricted and is not would be worse than none. No scopes: all rights."""
    if scopes:
        raise InvalidRequest(
            "Invalid 'scopes': this server does not restrict keys; every key of a project may do "
            "what the project may.",
            param="scopes",
            code="invalid_value",
        )


def _create(session: Session, project_id: str, body: CreateServiceAccount) -> ServiceAccountWithKey:
    projects.get_active(session, project_id)
    is_alone = bool(body.create_service_account_only)
    if is_alone and body.expires_in_seconds is not None:
        raise InvalidRequest(
            "Invalid 'expires_in_seconds': no key is made with 'create_service_account_only'.",
            param="expires_in_seconds",
            code="invalid_value",
        )
    row = service_accounts.create(
        session, project_id, name=body.name, role="none" if is_alone else "member"
    )
    key = None if is_alone else _new_key(session, row, "Secret key", body.expires_in_seconds)
    return ServiceAccountWithKey(api_key=key, **ServiceAccount.from_row(row).model_dump())


def _add_key(
    session: Session, project_id: str, account_id: str, body: CreateServiceAccountKey
) -> ServiceAccountKey:
    row = service_accounts.lock(session, project_id, account_id)
    projects.get_active(session, project_id)
    if row.role == "none":
        raise InvalidRequest(
            "The service account has no role in the project. Give it one before a key.",
        )
    return _new_key(session, row, body.name, body.expires_in_seconds)


def _new_key(
    session: Session, account: ServiceAccountRow, name: str, expires_in_s: int | None
) -> ServiceAccountKey:
    value = new_id("sk-svcacct-", 32)
    row: ApiKeyRow = api_keys.create(
        session,
        value,
        kind="project",
        name=name,
        project_id=account.project_id,
        service_account_id=account.id,
        expires_in_s=expires_in_s,
    )
    return ServiceAccountKey(
        id=row.id,
        created_at=int(row.created_at.timestamp()),
        expires_at=seconds(row.expires_at),
        name=row.name,
        value=value,
    )


def _delete(session: Session, project_id: str, account_id: str) -> None:
    row = service_accounts.lock(session, project_id, account_id)
    api_keys.revoke_all_of(session, row.id)
    service_accounts.remove(session, row)
