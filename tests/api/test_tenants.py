"""Every route under /v1, taken from the OpenAPI document, with ids of another project and with unknown ones."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest
from fastapi import FastAPI

from api.app import create_app
from foundation.settings import Settings
from foundation.vault import Vault
from storage.files import uploads
from storage.forecasts import forecasts
from storage.inference import batches, conversations, responses, stored_completions
from storage.jobs import checkpoints
from storage.jobs import jobs as storage_jobs
from storage.models import aliases, permissions, transfers
from storage.organization import api_keys, sessions
from storage.webhooks import webhooks
from tests.api.fine_tuning.test_jobs import create
from tests.api.stack import Api, Tenant


def routes(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        if path.startswith("/v1/")
        for method in operations
    ]


ROUTES = routes(create_app(Settings()))
# An admin key's routes belong to no project: tests/api/organization/test_organization.py has those.
OF_PROJECTS = [route for route in ROUTES if not route[1].startswith("/v1/organization/")]
OF_EVERYBODY = (
    "/v1/webhook_event_types",
    "/v1/luthier/signing_key",
    "/v1/luthier/guard",
    "/v1/luthier/sessions/identity",
    "/v1/luthier/forecasts/calibration",
)
"""And what holds no ids of the owner's."""
SIGN_IN = ("POST", "/v1/luthier/sessions")
"""Takes the key in its body: tests/api/luthier/test_sessions.py."""
WITH_AN_ID = [(method, path) for method, path in OF_PROJECTS if "{" in path]
BODIES: dict[str, Any] = {
    "/v1/fine_tuning/jobs": {"model": "tiny-random", "training_file": "{file_id}"},
    "/v1/fine-tunes": {"model": "tiny-random", "training_file": "{file_id}"},
    "/v1/chat/completions": {"model": "{model}", "messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"model": "{model}", "prompt": "x"},
    "/v1/chat/completions/{completion_id}": {"metadata": {"k": "v"}},
    "/v1/luthier/classifications": {"model": "{model}", "input": "x"},
    "/v1/moderations": {"model": "{model}", "input": "x"},
    "/v1/luthier/aliases": {"alias": "another-name", "model": "{model}"},
    "/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions": {"project_ids": ["x"]},
}
BODIES["/v1/luthier/models/{model}/export"] = {"format": "peft"}
BODIES["/v1/luthier/forecasts"] = {"model": "{model}", "training_file": "{file_id}"}
BODIES["/v1/luthier/imports"] = {"model": "tiny-random", "file_id": "{file_id}"}
BODIES["/v1/luthier/fine_tuning/jobs/{fine_tuning_job_id}/report"] = {"depth": "auto"}
BODIES["/v1/uploads/{upload_id}/complete"] = {"part_ids": []}
BODIES["/v1/webhook_endpoints/{webhook_endpoint_id}"] = {"name": "another"}
BODIES["/v1/webhook_endpoints/{webhook_endpoint_id}/test"] = {"event_type": "batch.failed"}
BODIES["/v1/responses"] = {"model": "{model}", "input": "x"}
BODIES["/v1/responses/input_tokens"] = {"model": "{model}", "input": "x"}
BODIES["/v1/conversations/{conversation_id}"] = {"metadata": {"k": "v"}}
BODIES["/v1/conversations/{conversation_id}/items"] = {"items": []}
UNKNOWN = {
    "response_id": "resp_unknown",
    "conversation_id": "conv_unknown",
    "item_id": "msg_unknown",
    "upload_id": "upload_unknown",
    "batch_id": "batch_unknown",
    "completion_id": "chatcmpl-unknown",
    "file_id": "file-unknown",
    "fine_tuning_job_id": "ftjob-unknown",
    "fine_tune_id": "ft-unknown",
    "fine_tuned_model_checkpoint": "ft:tiny-random:acme::unknown2",
    "permission_id": "cp_unknown",
    "alias": "alias-unknown",
    "model": "ft:tiny-random:acme::unknown1",
    "webhook_endpoint_id": "we_unknown",
    "export_id": "export-unknown",
    "import_id": "import-unknown",
    "session_id": "sess_unknown",
    "forecast_id": "forecast-unknown",
}


@pytest.fixture(scope="module")
def owner(api: Api) -> Tenant:
    return api.tenant()


@pytest.fixture(scope="module")
def owned(api: Api, owner: Tenant) -> dict[str, str]:
    """One thing of each kind, by the name that a path gives it."""
    with api.client(owner) as client:
        job = create(client)
    body = {"model": "tiny-random", "training_file": job.training_file}
    with api.http(owner) as http:
        fine_tune = http.post("/v1/fine-tunes", json=body).json()
    with api.sessions.begin() as session:
        checkpoints.create(session, job_id=job.id, step=1, model_name="ft:x", metrics={"step": 1})
        aliases.bind(session, owner.project_id, "alias-of-the-owner", "tiny-random")
        shared = session.merge(api.tuned_model(owner))
        (permission,) = permissions.create(session, shared, [api.tenant().project_id])
        stored_completions.create(
            session,
            owner.project_id,
            completion={"id": "chatcmpl-owned", "created": 1, "model": "m", "choices": []},
            messages=[{"role": "user", "content": "x"}],
            metadata=None,
        )
        item = {
            "id": "msg_owned",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [],
        }
        response: Any = {
            "id": "resp_owned",
            "object": "response",
            "created_at": 1,
            "status": "completed",
        }
        response |= {"model": "m", "output": [], "previous_response_id": None, "background": True}
        responses.create(session, owner.project_id, body=response, input=[item])
        conversations.create(session, owner.project_id, "conv_owned", None)
        conversations.add_items(session, owner.project_id, "conv_owned", [item])
        endpoint = webhooks.create(
            session, owner.project_id, Vault(), name="x", url="https://x.invalid/", event_types=[]
        )
        batch = batches.create(
            session,
            "batch_owned",
            project_id=owner.project_id,
            endpoint="/v1/chat/completions",
            input_file_id=job.training_file,
            metadata=None,
            output_expires_after_s=None,
        )
        own: Any = {
            "project_id": owner.project_id,
            "base_model": "tiny-random",
            "owned_by": "acme",
        }
        export = transfers.create(session, "export", model=shared.name, format="peft", **own)
        imported = transfers.create(session, "import", file_id=job.training_file, **own)
        caller = api_keys.find_caller(session, owner.key)
        assert caller is not None
        web_session = sessions.create(session, caller.key_id, sessions.new_token())
        asked = storage_jobs.asked(storage_jobs.get(session, owner.project_id, job.id))
        forecast = forecasts.create(session, project_id=owner.project_id, asked=asked)
        upload = uploads.create(
            session,
            project_id=owner.project_id,
            filename="x",
            purpose="user_data",
            size_bytes=0,
        )
    return {
        "upload_id": upload.id,
        "batch_id": batch.id,
        "completion_id": "chatcmpl-owned",
        "response_id": "resp_owned",
        "conversation_id": "conv_owned",
        "item_id": item["id"],
        "alias": "alias-of-the-owner",
        "fine_tuned_model_checkpoint": shared.name,
        "permission_id": permission.id,
        "file_id": job.training_file,
        "fine_tuning_job_id": job.id,
        "fine_tune_id": fine_tune["id"],
        "model": api.tuned_model(owner).name,
        "webhook_endpoint_id": endpoint.id,
        "export_id": export.id,
        "import_id": imported.id,
        "session_id": web_session.id,
        "forecast_id": forecast.id,
    }


def call(
    api: Api, tenant: Tenant | None, route: tuple[str, str], ids: dict[str, str]
) -> tuple[int, Any]:
    """The reply with the ids that were asked for taken out."""
    method, path = route
    body = BODIES.get(path) if method == "POST" else None
    if body is not None:
        body = {
            key: ids.get(value.strip("{}"), value) if isinstance(value, str) else value
            for key, value in body.items()
        }
    with api.http(tenant) as http:
        reply = http.request(method, path.format_map(defaultdict(lambda: "x", ids)), json=body)
    text = reply.text
    for value in ids.values():
        text = text.replace(value, "ID")
    return reply.status_code, text


def test_the_document_knows_the_ids_that_are_tried_here() -> None:
    assert {name for _, path in OF_PROJECTS for name in re.findall(r"{(\w+)}", path)} == set(
        UNKNOWN
    )
    assert len(WITH_AN_ID) >= 10


@pytest.mark.parametrize("route", [*WITH_AN_ID, *(("POST", path) for path in BODIES)], ids=" ".join)
def test_another_project_s_id_answers_as_an_unknown_one(
    api: Api, tenant: Tenant, owned: dict[str, str], route: tuple[str, str]
) -> None:
    foreign = call(api, tenant, route, owned)
    assert foreign == call(api, tenant, route, UNKNOWN)
    assert foreign[0] in (400, 404)


@pytest.mark.parametrize(
    "route",
    [
        route
        for route in OF_PROJECTS
        if "{" not in route[1] and route[0] == "GET" and route[1] not in OF_EVERYBODY
    ],
    ids=" ".join,
)
def test_lists_hold_nothing_of_other_projects(
    api: Api, tenant: Tenant, owner: Tenant, owned: dict[str, str], route: tuple[str, str]
) -> None:
    _, mine = call(api, tenant, route, owned)
    _, theirs = call(api, owner, route, owned)
    assert "ID" in theirs
    assert "ID" not in mine


@pytest.mark.parametrize("name", ["previous_response_id", "conversation"])
def test_another_project_s_past_is_an_unknown_one(
    api: Api, tenant: Tenant, owned: dict[str, str], name: str
) -> None:
    id_of = "response_id" if name == "previous_response_id" else "conversation_id"
    replies = []
    for ids in (owned, UNKNOWN):
        body = {"model": "tiny-random", "input": "x", name: ids[id_of]}
        with api.http(tenant) as http:
            reply = http.post("/v1/responses", json=body)
        replies.append((reply.status_code, reply.text.replace(ids[id_of], "ID")))
    assert replies[0] == replies[1]
    assert "not found" in replies[0][1]


@pytest.mark.parametrize("after", ["file_id", "fine_tuning_job_id"])
def test_a_foreign_cursor_is_an_unknown_cursor(
    api: Api, tenant: Tenant, owned: dict[str, str], after: str
) -> None:
    path = "/v1/files" if after == "file_id" else "/v1/fine_tuning/jobs"
    with api.http(tenant) as http:
        pages = [http.get(path, params={"after": ids[after]}).json() for ids in (owned, UNKNOWN)]
    assert pages[0] == pages[1]
    assert pages[0]["data"] == []


@pytest.mark.parametrize("route", [route for route in ROUTES if route != SIGN_IN], ids=" ".join)
def test_no_route_answers_without_a_key(
    api: Api, owned: dict[str, str], route: tuple[str, str]
) -> None:
    for tenant in (None, Tenant("", "sk-proj-wrong")):
        assert call(api, tenant, route, owned)[0] == 401


def test_what_is_left_is_the_owner_s(api: Api, owner: Tenant, owned: dict[str, str]) -> None:
    """After all of the above, none of the foreign deletes and cancels did anything."""
    with api.client(owner) as client:
        assert client.files.retrieve(owned["file_id"]).status == "processed"
        job = client.fine_tuning.jobs.retrieve(owned["fine_tuning_job_id"])
        assert job.status == "validating_files"
        assert client.models.retrieve(owned["model"]).id == owned["model"]
