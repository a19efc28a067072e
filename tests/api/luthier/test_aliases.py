from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

from storage.jobs.jobs import JobRow
from tests.api.fine_tuning.test_jobs import create, refused
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask, gateway
from tests.api.stack import Api, Tenant

OLD = "ft:gpt-4o-mini-2024-07-18:acme:support:B7R9VjQd"
PATH = "/v1/luthier/aliases"


def bind(api: Api, tenant: Tenant, alias: Any, model: Any) -> httpx.Response:
    with api.http(tenant) as http:
        return http.post(PATH, json={"alias": alias, "model": model})


def unbind(api: Api, tenant: Tenant, alias: str) -> httpx.Response:
    with api.http(tenant) as http:
        return http.delete(f"{PATH}/{quote(alias, safe=':')}")


def test_an_alias_is_bound_listed_bound_anew_and_deleted(api: Api, tenant: Tenant) -> None:
    first, second = api.tuned_model(tenant), api.tuned_model(tenant)
    bound = bind(api, tenant, OLD, first.name)
    assert bound.status_code == 200
    body = bound.json()
    assert isinstance(body.pop("created_at"), int)
    assert body == {"object": "model.alias", "alias": OLD, "model": first.name}
    assert bind(api, tenant, "a/b c", "gpt-4o-mini").json()["model"] == "tiny-random"
    # Of an alias only what it stands for is kept.
    assert bind(api, tenant, "another", OLD).json()["model"] == first.name
    assert bind(api, tenant, OLD, second.name).json()["model"] == second.name
    with api.http(tenant) as http:
        listed = http.get(PATH).json()
        assert [(each["alias"], each["model"]) for each in listed["data"]] == [
            ("a/b c", "tiny-random"),
            ("another", first.name),
            (OLD, second.name),
        ]
        page = http.get(PATH, params={"limit": 1, "after": "a/b c"}).json()
        assert ([each["alias"] for each in page["data"]], page["has_more"]) == (["another"], True)
    assert unbind(api, tenant, "a/b c").json() == {
        "object": "model.alias",
        "alias": "a/b c",
        "deleted": True,
    }
    gone = unbind(api, tenant, "a/b c")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "alias_not_found")


def test_an_alias_works_wherever_a_model_s_name_does(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant)
    bind(api, tenant, OLD, model.name)
    bind(api, tenant, "a-base/of-mine", "tiny-random")
    backend = FakeBackend()
    with gateway(api, backend) as front, front.client(tenant) as client:
        assert ask(client, OLD).model == OLD
        assert ask(client, "a-base/of-mine").model == "a-base/of-mine"
        found = client.models.retrieve(OLD)
        assert (found.id, found.owned_by) == (OLD, "acme")
        assert client.models.retrieve("a-base/of-mine").owned_by == "system"
        assert OLD not in {each.id for each in client.models.list()}
        jobs = [create(client, model=name) for name in (OLD, "a-base/of-mine")]
    assert [body["model"] for body, _ in backend.requests] == [model.artifact_id, "tiny-random"]
    assert [job.model for job in jobs] == [model.name, "tiny-random"]
    with api.sessions() as session:
        adapters = [session.get_one(JobRow, job.id).init_artifact_id for job in jobs]
    assert adapters == [model.artifact_id, None]


def test_an_alias_is_its_project_s_alone(api: Api, tenant: Tenant) -> None:
    bind(api, tenant, OLD, api.tuned_model(tenant).name)
    other = api.tenant()
    with api.client(other) as client, pytest.raises(openai.NotFoundError):
        client.models.retrieve(OLD)
    assert unbind(api, other, OLD).status_code == 404
    mine = api.tuned_model(other)
    assert bind(api, other, OLD, mine.name).json()["model"] == mine.name


def test_an_alias_of_a_deleted_model_is_an_unknown_model_that_says_why(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    model = api.tuned_model(tenant)
    bind(api, tenant, OLD, model.name)
    with pytest.raises(openai.BadRequestError, match=f"is an alias of '{model.name}'"):
        client.models.delete(OLD)
    client.models.delete(model.name)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve(OLD)
    assert caught.value.code == "model_not_found"
    assert f"it is an alias of '{model.name}', which is gone" in caught.value.message
    assert refused(client, model=OLD)[2] == "model_not_available"
    # The name of a model that is gone is free; whoever has it in code is served by another.
    other = api.tuned_model(tenant)
    assert bind(api, tenant, model.name, other.name).status_code == 200
    assert client.models.retrieve(model.name).id == model.name


@pytest.mark.parametrize(
    ("alias", "code"),
    [
        ("tiny-random", "alias_not_available"),
        ("gpt-4o-mini", "alias_not_available"),
        ("", "string_below_min_length"),
        ("x" * 257, "string_above_max_length"),
        ("a\nb", "invalid_value"),
        ("a\0b", "invalid_value"),
        (" a", "invalid_value"),
        (None, "invalid_type"),
    ],
)
def test_a_name_that_cannot_be_an_alias_is_refused(
    api: Api, tenant: Tenant, alias: Any, code: str
) -> None:
    reply = bind(api, tenant, alias, "tiny-random")
    assert reply.status_code == 400
    assert (reply.json()["error"]["code"], reply.json()["error"]["param"]) == (code, "alias")


def test_a_model_is_not_hidden_by_an_alias_and_must_exist(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant)
    reply = bind(api, tenant, model.name, "tiny-random")
    assert reply.json()["error"]["code"] == "alias_not_available"
    for unknown in ("nothing", api.tuned_model(api.tenant()).name, OLD):
        reply = bind(api, tenant, OLD, unknown)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
