from __future__ import annotations

from typing import Any

import openai
import pytest
from sqlalchemy import update

from storage.blobs import artifact_keys
from storage.jobs.jobs import JobRow
from storage.models import models
from storage.models.models import ModelRow
from storage.organization.projects import ProjectRow
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask, gateway
from tests.api.stack import Api, Tenant

from .test_jobs import create


def share(api: Api, owner: Tenant, model: ModelRow, *others: Tenant) -> list[str]:
    with api.client(owner) as client:
        page = client.fine_tuning.checkpoints.permissions.create(
            model.name, project_ids=[other.project_id for other in others]
        )
    return [permission.id for permission in page.data]


def test_permissions_are_created_listed_and_deleted(api: Api, tenant: Tenant) -> None:
    model, others = api.tuned_model(tenant), [api.tenant() for _ in range(3)]
    strict = openai.OpenAI(
        base_url=f"{api.url}/v1", api_key=tenant.key, _strict_response_validation=True
    )
    with strict:
        permissions = strict.fine_tuning.checkpoints.permissions
        made = permissions.create(model.name, project_ids=[o.project_id for o in others]).data
        assert [each.project_id for each in made] == [other.project_id for other in others]
        assert all(each.id.startswith("cp_") for each in made)
        assert made[0].object == "checkpoint.permission"
        # Given again, it stays the one that it was.
        again = permissions.create(model.name, project_ids=[others[1].project_id] * 2).data
        assert again == [made[1]]
        listed = list(permissions.list(model.name, limit=2))
        assert {each.id for each in listed} == {each.id for each in made}
        assert list(permissions.list(model.name, order="ascending")) == listed[::-1]
        with pytest.deprecated_call():
            page = permissions.retrieve(model.name, limit=2)
        assert (page.has_more, page.first_id, page.last_id) == (True, listed[0].id, listed[1].id)
        (one,) = permissions.list(model.name, project_id=others[2].project_id)
        assert one.id == made[2].id
        assert permissions.list(model.name, limit=0).data == []
        assert permissions.list(model.name, after="cp_unknown").data == []
        gone = permissions.delete(made[0].id, fine_tuned_model_checkpoint=model.name)
        assert (gone.id, gone.deleted) == (made[0].id, True)
        with pytest.raises(openai.NotFoundError, match="No such checkpoint permission"):
            permissions.delete(made[0].id, fine_tuned_model_checkpoint=model.name)


def test_the_other_project_uses_the_model_until_the_permission_is_taken(
    api: Api, tenant: Tenant
) -> None:
    model, other = api.tuned_model(tenant), api.tenant()
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(other) as client:
        with pytest.raises(openai.NotFoundError):
            ask(client, model.name)
        (permission,) = share(api, tenant, model, other)
        assert ask(client, model.name).model == model.name
        _, headers = backend.requests[-1]
        # The prefix cache is the caller's, not the owner's.
        assert headers["x-luthier-cache-salt"] == other.project_id
        assert client.models.retrieve(model.name).id in {each.id for each in client.models.list()}
        job = create(client, model=model.name)
        with api.client(tenant) as owner:
            owner.fine_tuning.checkpoints.permissions.delete(
                permission, fine_tuned_model_checkpoint=model.name
            )
        with pytest.raises(openai.NotFoundError):
            ask(client, model.name)
        with pytest.raises(openai.BadRequestError):
            create(client, model=model.name)
        with api.client(tenant) as owner:
            owner.models.delete(model.name)
        # The job that has begun keeps the weights.
        assert artifact_keys.key(model.artifact_id) in api.blobs.list("artifacts/")
        with api.sessions() as session:
            assert session.get_one(JobRow, job.id).init_artifact_id == model.artifact_id
        client.fine_tuning.jobs.cancel(job.id)


def test_a_permission_is_to_use_and_to_nothing_else(api: Api, tenant: Tenant) -> None:
    model, other = api.tuned_model(tenant), api.tenant()
    share(api, tenant, model, other)
    with api.client(other) as client, api.http(other) as http:
        with pytest.raises(openai.PermissionDeniedError, match="belongs to another project"):
            client.models.delete(model.name)
        permissions = client.fine_tuning.checkpoints.permissions
        with pytest.raises(openai.NotFoundError):
            permissions.create(model.name, project_ids=[api.tenant().project_id])
        with pytest.raises(openai.NotFoundError):
            permissions.list(model.name)
        assert http.get(f"/v1/luthier/models/{model.name}/adapter").status_code == 404
    with api.sessions() as session:
        assert models.find(session, tenant.project_id, model.name) is not None


def test_an_admin_manages_every_model_s_permissions(api: Api, tenant: Tenant) -> None:
    model, other = api.tuned_model(tenant), api.tenant()
    admin = Tenant("", api.admin_key())
    (permission,) = share(api, admin, model, other)
    with api.client(admin) as client:
        permissions = client.fine_tuning.checkpoints.permissions
        assert [each.id for each in permissions.list(model.name)] == [permission]
        permissions.delete(permission, fine_tuned_model_checkpoint=model.name)
        with pytest.raises(openai.NotFoundError):
            permissions.list("ft:nothing")


def test_projects_must_be_live_and_of_the_organisation(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant)
    foreign, archived = api.tenant().project_id, api.tenant().project_id
    with api.sessions.begin() as session:
        values: dict[str, Any] = {foreign: {"organization_id": "org-other"}}
        values[archived] = {"archived_at": ProjectRow.created_at}
        for project_id, columns in values.items():
            session.execute(update(ProjectRow).where(ProjectRow.id == project_id).values(**columns))
    with api.client(tenant) as client:
        permissions = client.fine_tuning.checkpoints.permissions
        for project_id in (foreign, archived, "proj_unknown"):
            with pytest.raises(openai.BadRequestError) as caught:
                permissions.create(model.name, project_ids=[tenant.project_id, project_id])
            assert (caught.value.param, caught.value.code) == ("project_ids", "project_not_found")
        assert permissions.list(model.name).data == []


@pytest.mark.parametrize(
    "body", [{}, {"project_ids": []}, {"project_ids": "x"}, {"project_ids": [7]}]
)
def test_a_body_without_projects_is_refused(api: Api, tenant: Tenant, body: Any) -> None:
    path = f"/v1/fine_tuning/checkpoints/{api.tuned_model(tenant).name}/permissions"
    with api.http(tenant) as http:
        reply = http.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("project_ids")


def test_a_slash_in_the_model_s_name_does_not_matter(api: Api, tenant: Tenant) -> None:
    model, other, name = api.tuned_model(tenant), api.tenant(), "ft:org/base:acme::abcdefgh"
    with api.sessions.begin() as session:
        session.execute(update(ModelRow).where(ModelRow.name == model.name).values(name=name))
    with api.client(tenant) as client:
        permissions = client.fine_tuning.checkpoints.permissions
        (made,) = permissions.create(name, project_ids=[other.project_id]).data
        assert [each.id for each in permissions.list(name)] == [made.id]
        permissions.delete(made.id, fine_tuned_model_checkpoint=name)
        assert client.models.retrieve(name).id == name
        assert client.models.delete(name).deleted
