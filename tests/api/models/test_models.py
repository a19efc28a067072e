from __future__ import annotations

import openai
import pytest

from foundation.errors import MAX_MESSAGE_CHARS
from storage.blobs import artifact_keys
from storage.models import models
from storage.models.base_models import BaseModel, add
from tests.api.fine_tuning.test_jobs import create
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import gateway
from tests.api.stack import Api, Tenant


def is_stored(api: Api, artifact_id: str) -> bool:
    return artifact_keys.key(artifact_id) in api.blobs.list(artifact_keys.key(artifact_id))


def test_bases_and_own_models_are_listed(api: Api, tenant: Tenant, client: openai.OpenAI) -> None:
    own = [api.tuned_model(tenant).name for _ in range(2)]
    api.tuned_model(api.tenant())
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"smollm2-135m-instruct", "tiny-random", *own}
    assert listed["tiny-random"].owned_by == "system"
    assert client.models.retrieve(own[0]) == listed[own[0]]
    assert listed[own[0]].owned_by == "acme"
    assert listed[own[0]].created > 1_700_000_000


def test_an_alias_can_be_retrieved_by_its_name(client: openai.OpenAI) -> None:
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
    assert "gpt-4o-mini" not in {model.id for model in client.models.list()}


def test_a_base_added_while_the_server_runs_is_there_at_once(
    api: Api, client: openai.OpenAI
) -> None:
    add(api.settings.data_dir, BaseModel("another", "directory:/nowhere"))
    try:
        assert client.models.retrieve("another").id == "another"
    finally:
        (api.settings.data_dir / "base_models.toml").unlink()


@pytest.mark.parametrize("name", ["nothing", "org/name", "ft:a/b:c", "ü", "a%2Fb", "x" * 5000])
def test_an_unknown_model_is_404_in_openai_s_words(client: openai.OpenAI, name: str) -> None:
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(name)
        assert caught.value.body == {
            "message": f"The model '{name}' does not exist"[:MAX_MESSAGE_CHARS],
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }


def test_deleting_a_model_takes_its_artifact_too(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    model = api.tuned_model(tenant)
    deleted = client.models.delete(model.name)
    assert (deleted.id, deleted.object, deleted.deleted) == (model.name, "model", True)
    assert not is_stored(api, model.artifact_id)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(model.name)


def test_inference_servers_forget_a_deleted_model(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant)
    backends = [FakeBackend(), FakeBackend(is_unable_to_unload=True), FakeBackend()]
    with gateway(api, *backends, dead=1) as front, front.client(tenant) as client:
        client.models.delete(model.name)
    assert [backend.unloaded for backend in backends] == [
        [model.artifact_id],
        [],
        [model.artifact_id],
    ]


def test_an_artifact_stays_while_another_name_or_a_job_needs_it(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    model, twin = api.tuned_model(tenant), "ft:tiny-random:acme:twin:12345678"
    with api.sessions.begin() as session:
        models.create(
            session,
            twin,
            project_id=tenant.project_id,
            artifact_id=model.artifact_id,
            base_model=model.base_model,
            job_id=model.job_id,
            owned_by="acme",
        )
    client.models.delete(model.name)
    assert is_stored(api, model.artifact_id)
    job = create(client, model=twin)
    client.models.delete(twin)
    assert is_stored(api, model.artifact_id)
    client.fine_tuning.jobs.cancel(job.id)


def test_a_base_cannot_be_deleted(client: openai.OpenAI) -> None:
    for name in ("tiny-random", "gpt-4o-mini"):
        with pytest.raises(openai.PermissionDeniedError, match="is a base model"):
            client.models.delete(name)
