"""`ft:…@0.75` on its way through the api."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi.responses import JSONResponse

from foundation.errors import ModelNotFound
from storage.models import strengths
from tests.api.stack import Api, Tenant

from .fake_backend import FakeBackend
from .test_inference import MESSAGES, ask, gateway


@pytest.fixture(scope="module")
def of_module() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def backend(of_module: FakeBackend) -> Iterator[FakeBackend]:
    yield of_module
    of_module.requests.clear()
    of_module.answer = None


@pytest.fixture(scope="module")
def front(api: Api, of_module: FakeBackend) -> Iterator[Api]:
    with gateway(api, of_module) as front:
        yield front


@pytest.fixture
def client(front: Api, tenant: Tenant) -> Iterator[openai.OpenAI]:
    with front.client(tenant) as client:
        yield client


def test_a_strength_is_told_in_its_short_form_behind_the_artifact(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    meant = {"0": "0", ".5": "0.5", "0.754": "0.75", "1.50": "1.5", "01.1": "1.1"}
    for given in meant:
        name = f"{model.name}@{given}"
        raw = client.chat.completions.with_raw_response.create(model=name, messages=MESSAGES)
        assert raw.parse().model == name
        assert raw.headers["openai-model"] == f"{model.name}@{meant[given]}"
    asked = [body["model"] for body, _ in backend.requests]
    assert asked == [f"{model.artifact_id}@{short}" for short in meant.values()]
    assert len(backend.requests[0][1]["x-luthier-adapter-sha256"]) == 64


def test_every_way_to_ask_takes_a_strength(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    name = f"{model.name}@0.75"
    assert client.completions.create(model=name, prompt="x").model == name
    assert client.responses.create(model=name, input="Hello?").model == name
    assert next(iter(ask(client, name, stream=True))).model == name
    kept = ask(client, name, store=True)
    assert client.chat.completions.retrieve(kept.id).model == name
    assert client.models.retrieve(name).id == name
    assert {body["model"] for body, _ in backend.requests} == {f"{model.artifact_id}@0.75"}


def test_full_strength_is_the_model_itself(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    for text in ("1", "1.00", "0.999"):
        assert ask(client, f"{model.name}@{text}").model == f"{model.name}@{text}"
    assert {body["model"] for body, _ in backend.requests} == {model.artifact_id}


def test_an_alias_has_strengths_and_may_stand_for_one(
    client: openai.OpenAI, front: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = front.tuned_model(tenant)
    with front.http(tenant) as http:
        bound = {"plain": model.name, "soft": f"{model.name}@0.50", "softer": "plain@0.25"}
        told = [
            http.post("/v1/luthier/aliases", json={"alias": a, "model": m}).json()["model"]
            for a, m in bound.items()
        ]
        assert told == [model.name, f"{model.name}@0.5", f"{model.name}@0.25"]
        taken = {"alias": f"{model.name}@0.3", "model": "tiny-random"}
        assert http.post("/v1/luthier/aliases", json=taken).status_code == 400
    for name in ("plain@0.75", "soft", "softer"):
        assert ask(client, name).model == name
        assert client.models.retrieve(name).id == name
    asked = [body["model"].partition("@")[2] for body, _ in backend.requests]
    assert asked == ["0.75", "0.5", "0.25"]


def test_what_is_no_strength_is_refused_in_words(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    texts = [
        "",
        "1.51",
        "-0.1",
        "nan",
        "inf",
        "1e0",
        "0x1",
        "half",
        "0,5",
        " 1",
        "9" * 400,
        "\u0660",
    ]
    for text in texts:
        with pytest.raises(openai.BadRequestError, match=r"expected a number from 0 to 1\.5") as e:
            ask(client, f"{model.name}@{text}")
        assert (e.value.code, e.value.param) == ("invalid_strength", "model")
    assert not backend.requests


def test_what_is_no_lora_model_has_no_strength(
    client: openai.OpenAI, api: Api, tenant: Tenant
) -> None:
    other = api.tenant()
    names: dict[str, type[openai.APIStatusError]] = {
        f"{api.tuned_model(other).name}@0.5": openai.NotFoundError,
        "ft:unknown@0.5": openai.NotFoundError,
        "@": openai.NotFoundError,
        "gpt-4o-mini@0.5": openai.BadRequestError,
        "tiny-random@0": openai.BadRequestError,
    }
    for kind in ("full", "prefix", "output_layers", "classifier"):
        names[f"{api.tuned_model(tenant, kind=kind).name}@0.5"] = openai.BadRequestError
    for name, error in names.items():
        with pytest.raises(error):
            ask(client, name)


def test_a_server_that_knows_no_strengths_is_told_of(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    error: dict[str, Any] = {"message": "not found", "type": "x", "param": None, "code": None}
    backend.answer = JSONResponse({"error": error}, 404)
    with pytest.raises(openai.BadRequestError, match=f"as vLLM does not: ask for {model.name}"):
        ask(client, f"{model.name}@0.5")


def test_a_deleted_model_has_no_strength(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    client.models.delete(model.name)
    with pytest.raises(openai.NotFoundError):
        ask(client, f"{model.name}@0.5")
    # Servers forget an artifact at all its strengths.
    assert backend.unloaded == [model.artifact_id]


def test_there_are_151_strengths() -> None:
    given = [f"{n / 1000:.3f}" for n in range(1501)]
    assert len({strengths.name_at("ft:x", strengths.parse(text)) for text in given}) == 151


def test_a_model_that_is_deleted_meanwhile_is_not_taken_for_a_server_without_strengths(
    client: openai.OpenAI, api: Api, tenant: Tenant, backend: FakeBackend
) -> None:
    model = api.tuned_model(tenant)
    error = ModelNotFound(f"{model.artifact_id}@0.5")
    backend.answer = JSONResponse(error.body(), 404)
    with pytest.raises(openai.NotFoundError, match=f"'{model.name}@0.5' does not exist"):
        ask(client, f"{model.name}@0.5")
