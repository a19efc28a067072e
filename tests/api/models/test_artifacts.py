from __future__ import annotations

import openai
import pytest

from tests.api.stack import Api, Tenant


def test_the_adapter_s_tar_is_streamed_as_it_was_stored(api: Api, tenant: Tenant) -> None:
    content = bytes(range(256)) * 10_000
    model = api.tuned_model(tenant, content)
    with api.http(tenant) as http:
        reply = http.get(f"/v1/luthier/models/{model.name}/adapter")
    assert reply.status_code == 200
    assert reply.content == content
    assert reply.headers["content-type"] == "application/x-tar"
    assert reply.headers["x-luthier-artifact-kind"] == "lora"
    filename = model.name.replace(":", "-") + ".tar"
    assert reply.headers["content-disposition"] == f'attachment; filename="{filename}"'


def test_a_base_has_no_adapter_and_an_unknown_model_is_404(api: Api, tenant: Tenant) -> None:
    with api.http(tenant) as http:
        reply = http.get("/v1/luthier/models/tiny-random/adapter")
        assert reply.status_code == 400
        assert "has no adapter" in reply.json()["error"]["message"]
        reply = http.get("/v1/luthier/models/ft:a%2Fb:c/adapter")
        assert reply.status_code == 404
        assert reply.json()["error"]["message"] == "The model 'ft:a/b:c' does not exist"


def test_a_kind_that_no_server_applies_is_refused_and_can_be_downloaded(
    api: Api, tenant: Tenant
) -> None:
    model = api.tuned_model(tenant, b"all weights", kind="spell").name
    with api.client(tenant) as client, api.http(tenant) as http:
        with pytest.raises(
            openai.BadRequestError, match=r"of the kind 'spell'.*they serve classifier, full, lora"
        ):
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": ""}])
        file = client.files.create(file=("a.jsonl", b"{}\n"), purpose="fine-tune")
        with pytest.raises(openai.BadRequestError, match=r"of the kind 'spell'.*cannot go on from"):
            client.fine_tuning.jobs.create(model=model, training_file=file.id)
        reply = http.get(f"/v1/luthier/models/{model}/adapter")
        assert reply.content == b"all weights"
        assert reply.headers["x-luthier-artifact-kind"] == "spell"
