from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from sqlalchemy import update

from storage.organization.api_keys import ApiKeyRow
from tests.api.stack import Api, Tenant

ROUTES = [
    (method.upper(), path)
    for path, methods in {
        "/v1/organization/projects": "get post",
        "/v1/organization/projects/x": "get post",
        "/v1/organization/projects/x/archive": "post",
        "/v1/organization/projects/x/service_accounts": "get post",
        "/v1/organization/projects/x/service_accounts/x": "get post delete",
        "/v1/organization/projects/x/service_accounts/x/api_keys": "post",
        "/v1/organization/projects/x/api_keys": "get",
        "/v1/organization/projects/x/api_keys/x": "get post delete",
        "/v1/organization/admin_api_keys": "get post",
        "/v1/organization/admin_api_keys/x": "get delete",
    }.items()
    for method in methods.split()
]


@pytest.fixture
def admin(api: Api) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{api.url}/v1",
        api_key="unused",
        admin_api_key=api.admin_key(),
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def works(api: Api, key: str) -> bool:
    with api.http(Tenant("", key)) as http:
        status = http.get("/v1/files").status_code
    assert status in (200, 401)
    return status == 200


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_project_s_key_may_do_nothing_here(
    api: Api, tenant: Tenant, route: tuple[str, str]
) -> None:
    with api.http(tenant) as http:
        refused = http.request(*route)
    assert refused.status_code == 403
    assert "it needs an admin key" in refused.json()["error"]["message"]
    with api.http() as http:
        assert http.request(*route).status_code == 401


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if r[1].rpartition("/")[2] == "x"], ids=" ".join
)
def test_unknown_ids_are_not_found(api: Api, route: tuple[str, str]) -> None:
    with api.http(Tenant("", api.admin_key())) as http:
        assert http.request(*route, json={} if route[0] == "POST" else None).status_code == 404


def test_project_is_created_renamed_listed_and_archived(api: Api, admin: openai.OpenAI) -> None:
    projects = admin.admin.organization.projects
    made = projects.create(name="Research", residency="GLOBAL")
    assert (made.name, made.status, made.archived_at) == ("Research", "active", None)
    assert projects.update(made.id, name="Science").name == "Science"
    assert projects.retrieve(made.id).name == "Science"
    account = projects.service_accounts.create(made.id, name="ci")
    assert account.api_key is not None
    assert works(api, account.api_key.value)

    archived = projects.archive(made.id)
    assert archived.status == "archived"
    assert archived.archived_at is not None
    assert not works(api, account.api_key.value)
    assert projects.archive(made.id) == archived
    assert made.id not in {it.id for it in projects.list()}
    assert made.id in {it.id for it in projects.list(include_archived=True, limit=1)}
    for change in (
        lambda: projects.update(made.id, name="Again"),
        lambda: projects.service_accounts.create(made.id, name="again"),
        lambda: projects.service_accounts.api_keys.create(account.id, project_id=made.id),
    ):
        with pytest.raises(openai.BadRequestError, match="archived"):
            change()


@pytest.mark.parametrize(
    "asked", [{"residency": "EU_STORAGE_PROCESSING"}, {"geography": "EU"}, {"external_key_id": "k"}]
)
def test_what_the_server_cannot_promise_is_refused(
    admin: openai.OpenAI, asked: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        admin.admin.organization.projects.create(name="Abroad", **asked)
    assert refused.value.param == next(iter(asked))


def test_service_account_has_keys_that_go_with_it(
    api: Api, tenant: Tenant, admin: openai.OpenAI
) -> None:
    accounts = admin.admin.organization.projects.service_accounts
    account = accounts.create(tenant.project_id, name="ci", expires_in_seconds=60)
    first = account.api_key
    assert first is not None
    assert first.expires_at is not None
    assert abs(first.expires_at - first.created_at - 60) <= 1
    second = accounts.api_keys.create(account.id, project_id=tenant.project_id, name="second")
    assert (second.name, second.expires_at) == ("second", None)
    assert works(api, first.value)
    assert works(api, second.value)
    changed = accounts.update(account.id, project_id=tenant.project_id, role="owner")
    assert (changed.name, changed.role) == ("ci", "owner")
    assert [it.id for it in accounts.list(tenant.project_id)] == [account.id]

    assert accounts.delete(account.id, project_id=tenant.project_id).deleted
    assert not works(api, first.value)
    assert not works(api, second.value)
    assert works(api, tenant.key)
    assert list(accounts.list(tenant.project_id)) == []
    with pytest.raises(openai.NotFoundError):
        accounts.retrieve(account.id, project_id=tenant.project_id)


def test_account_alone_gets_no_key_until_it_has_a_role(
    tenant: Tenant, admin: openai.OpenAI
) -> None:
    accounts = admin.admin.organization.projects.service_accounts
    account = accounts.create(tenant.project_id, name="ci", create_service_account_only=True)
    assert (account.api_key, account.role) == (None, "none")
    with pytest.raises(openai.BadRequestError):
        accounts.api_keys.create(account.id, project_id=tenant.project_id)
    accounts.update(account.id, project_id=tenant.project_id, role="member")
    assert accounts.api_keys.create(account.id, project_id=tenant.project_id).value


def test_project_s_keys_are_listed_changed_and_deleted(
    api: Api, tenant: Tenant, admin: openai.OpenAI
) -> None:
    keys = admin.admin.organization.projects.api_keys
    account = admin.admin.organization.projects.service_accounts.create(
        tenant.project_id, name="ci"
    )
    assert account.api_key is not None
    value = account.api_key.value
    first, made = keys.list(tenant.project_id)
    assert (first.owner.type, first.redacted_value[-4:]) == (None, tenant.key[-4:])
    assert made.id == account.api_key.id
    assert made.owner.service_account is not None
    assert made.owner.service_account.id == account.id
    assert made.redacted_value == f"sk-svcacct-...{value[-4:]}"
    assert made.last_used_at is None
    assert value not in made.to_json()
    assert list(keys.list(tenant.project_id, owner_project_access="inactive")) == []
    assert works(api, value)
    assert keys.retrieve(made.id, project_id=tenant.project_id).last_used_at is not None

    changed = keys.update(made.id, project_id=tenant.project_id, scopes=[], expires_in_seconds=60)
    assert changed.expires_at is not None
    with pytest.raises(openai.BadRequestError) as refused:
        keys.update(made.id, project_id=tenant.project_id, scopes=["api.all.read"])
    assert refused.value.param == "scopes"
    with api.sessions.begin() as session:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        session.execute(update(ApiKeyRow).where(ApiKeyRow.id == made.id).values(expires_at=past))
    assert not works(api, value)
    with pytest.raises(openai.BadRequestError, match="expired"):
        keys.update(made.id, project_id=tenant.project_id, expires_in_seconds=60)

    other = api.tenant()
    with pytest.raises(openai.NotFoundError):
        keys.delete(first.id, project_id=other.project_id)
    assert works(api, tenant.key)
    assert keys.delete(first.id, project_id=tenant.project_id).deleted
    assert not works(api, tenant.key)


def test_admin_keys_are_created_listed_and_deleted(api: Api, admin: openai.OpenAI) -> None:
    keys = admin.admin.organization.admin_api_keys
    made = keys.create(name="deploy", expires_in_seconds=3600)
    assert made.value.startswith("sk-admin-")
    assert made.redacted_value == f"sk-admin-...{made.value[-4:]}"
    assert made.expires_at is not None
    with openai.OpenAI(
        base_url=f"{api.url}/v1", api_key="unused", admin_api_key=made.value, max_retries=0
    ) as other:
        found = other.admin.organization.admin_api_keys.retrieve(made.id)
        assert (found.name, found.expires_at) == ("deploy", made.expires_at)
        assert made.value not in found.to_json()
        newest, *_ = keys.list(order="desc", limit=1)
        assert newest.id == made.id
        assert made.id in {it.id for it in keys.list(order="asc", limit=2)}
        assert keys.delete(made.id).deleted
        with pytest.raises(openai.AuthenticationError):
            other.admin.organization.admin_api_keys.list()
    # An admin key belongs to no project.
    with api.http(Tenant("", admin.admin_api_key or "")) as http:
        assert http.get("/v1/files").status_code == 403


@pytest.mark.parametrize("seconds", [0, 31_536_001, -1])
def test_expiry_has_bounds(admin: openai.OpenAI, seconds: int) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        admin.admin.organization.admin_api_keys.create(name="x", expires_in_seconds=seconds)
    assert refused.value.param == "expires_in_seconds"
