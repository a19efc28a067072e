"""/v1/organization/admin_api_keys: keys that look after the organisation and belong to no project."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from api.auth import of_organization
from api.idempotency import CreatesSecretOnce
from api.moments import seconds
from api.pages import After, PageWithIds, ends, limit
from api.requests import bodies
from api.requests.fields import Name
from api.wiring import Wired
from storage.organization import api_keys
from storage.organization.api_keys import ApiKeyRow

from .service_accounts import ExpiryS

router = APIRouter(
    prefix="/v1/organization/admin_api_keys",
    tags=["organization"],
    dependencies=[Depends(of_organization)],
    route_class=CreatesSecretOnce,
)


class CreateAdminKey(BaseModel):
    name: Name
    expires_in_seconds: ExpiryS | None = None


class AdminKeyOwner(BaseModel):
    """The operator: this server knows no users."""

    object: Literal["organization.user"] = "organization.user"
    type: Literal["user"] = "user"
    role: Literal["owner"] = "owner"
    id: None = None
    name: None = None
    created_at: None = None


class AdminKey(BaseModel):
    id: str
    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    name: str
    owner: AdminKeyOwner
    redacted_value: str

    @classmethod
    def from_row(cls, row: ApiKeyRow) -> AdminKey:
        return cls(**_fields(row))


class AdminKeyWithValue(AdminKey):
    """The one reply that shows the key."""

    value: str


class AdminKeyDeleted(BaseModel):
    id: str
    object: Literal["organization.admin_api_key.deleted"] = "organization.admin_api_key.deleted"
    deleted: Literal[True] = True


@router.post("", openapi_extra=bodies.document(CreateAdminKey))
async def create_admin_key(
    body: Annotated[CreateAdminKey, Depends(bodies.json_body(CreateAdminKey, by=of_organization))],
    wiring: Wired,
) -> AdminKeyWithValue:
    value = api_keys.new_key("admin")
    row = await wiring.database.run(
        api_keys.create,
        value,
        kind="admin",
        name=body.name,
        project_id=None,
        expires_in_s=body.expires_in_seconds,
    )
    return AdminKeyWithValue(value=value, **_fields(row))


@router.get("")
async def list_admin_keys(
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
    order: Literal["asc", "desc"] = "asc",
) -> PageWithIds[AdminKey]:
    """Keys by age; expired ones, too."""
    page = await wiring.database.run(
        api_keys.page, None, after=after, limit=limit, descending=order == "desc"
    )
    data = [AdminKey.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([it.id for it in data]))


@router.get("/{key_id}")
async def retrieve_admin_key(
    key_id: str,
    wiring: Wired,
) -> AdminKey:
    return AdminKey.from_row(await wiring.database.run(api_keys.get, None, key_id))


@router.delete("/{key_id}")
async def delete_admin_key(
    key_id: str,
    wiring: Wired,
) -> AdminKeyDeleted:
    """It stops working with the next request. The last one that works cannot be deleted."""
    await wiring.database.run(api_keys.revoke_admin, key_id)
    return AdminKeyDeleted(id=key_id)


def _fields(row: ApiKeyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": seconds(row.expires_at),
        "last_used_at": seconds(row.last_used_at),
        "name": row.name,
        "owner": AdminKeyOwner(),
        "redacted_value": f"sk-admin-...{row.hint}",
    }
