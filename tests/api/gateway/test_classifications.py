"""Labels with their probabilities through the gateway, which knows a model's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest
from fastapi.responses import JSONResponse

from storage.ids import new_id
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.models.models import ModelRow
from tests.api.stack import Api, Tenant, wait_until
from training.messages import Classification, Label

from .fake_backend import FakeBackend
from .test_inference import gateway
from .test_metering import USAGE, sums

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
LABELS = [{"text": "a", "token_ids": [97, 258]}, {"text": "b", "token_ids": [98, 258]}]


def classifier(
    api: Api,
    tenant: Tenant,
    *,
    content: bytes = b"weights",
    head: bool = False,
    texts: Sequence[str] = ("a", "b"),
) -> ModelRow:
    """A model of a job as a worker would have left it."""
    model = api.tuned_model(tenant, content, kind="classifier" if head else "lora")
    labels = [Label(text=text, token_ids=(*text.encode(), 258)) for text in texts]
    method = Classification(form="text", head=head, labels=tuple(labels))
    row = JobRow(
        id=new_id("ftjob-"),
        project_id=tenant.project_id,
        organization_id="org-luthier",
        organization_slug="luthier",
        model="tiny-random",
        base_model="tiny-random",
        training_file="file-x",
        method="classification",
        hyperparameters={},
        seed=7,
        train_config={"config": {"method": method.model_dump(mode="json")}},
    )
    with api.sessions.begin() as session:
        jobs.create(session, row)
        session.merge(model).job_id = row.id
    return model


def post(front: Api, tenant: Tenant, **body: Any) -> httpx.Response:
    with front.http(tenant) as http:
        return http.post("/v1/luthier/classifications", json=body)


def test_the_model_s_labels_are_asked_for_and_what_it_took_is_metered(
    api: Api, tenant: Tenant
) -> None:
    model = classifier(api, tenant)
    entry = {"object": "classification", "index": 0, "label": "a", "probability": 0.75}
    answer = {"object": "list", "model": model.artifact_id, "data": [entry], "usage": USAGE}
    backend = FakeBackend(answer=JSONResponse(answer))
    with gateway(api, backend) as front:
        # What the body says of labels counts for nothing, and there is no stream.
        reply = post(
            front, tenant, model=model.name, input="x", labels=[], form="chat", stream=True
        )
        assert reply.status_code == 200, reply.text
        assert reply.json() == {**answer, "model": model.name}
        wait_until(lambda: model.name in sums(api, tenant))
    body, headers = backend.requests[0]
    assert body == {
        "model": model.artifact_id,
        "input": "x",
        "form": "text",
        "labels": LABELS,
        "stream": True,
    }
    assert headers["x-luthier-cache-salt"] == tenant.project_id
    assert sums(api, tenant)[model.name] == (3, 1, 2, 1)


def test_a_head_knows_its_labels_itself_and_writes_nothing(api: Api, tenant: Tenant) -> None:
    model = classifier(api, tenant, head=True)
    answer = {"object": "list", "model": model.artifact_id, "data": [], "usage": USAGE}
    backend = FakeBackend(answer=JSONResponse(answer))
    with gateway(api, backend) as front:
        reply = post(front, tenant, model=model.name, input="x", labels=LABELS)
        assert reply.status_code == 200, reply.text
        with front.client(tenant) as client:
            for ask in (
                lambda: client.chat.completions.create(model=model.name, messages=HELLO),
                lambda: client.completions.create(model=model.name, prompt="x"),
            ):
                with pytest.raises(openai.BadRequestError, match="writes no text") as caught:
                    ask()
                assert "POST /v1/luthier/classifications" in caught.value.message
                assert (caught.value.code, caught.value.param) == ("model_not_servable", "model")
    ((body, headers),) = backend.requests
    assert (body["form"], body["labels"]) == ("text", [])
    assert headers["x-luthier-artifact-kind"] == "classifier"


def test_models_that_learnt_something_else_have_no_labels(api: Api, tenant: Tenant) -> None:
    tuned = api.tuned_model(tenant)
    backend = FakeBackend()
    with gateway(api, backend) as front:
        for name in (tuned.name, "tiny-random"):
            reply = post(front, tenant, model=name, input="x")
            assert reply.status_code == 400
            error = reply.json()["error"]
            assert error["param"] == "model"
            assert "was not trained by the method 'classification'" in error["message"]
        reply = post(front, tenant, input="x")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "model")
    assert backend.requests == []


def test_another_project_s_classifier_is_unknown(api: Api, tenant: Tenant) -> None:
    model, backend = classifier(api, api.tenant()), FakeBackend()
    with gateway(api, backend) as front:
        assert post(front, tenant, model=model.name, input="x").status_code == 404
    assert backend.requests == []
