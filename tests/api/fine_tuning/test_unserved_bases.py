"""A base that no inference server serves: nothing is promised of it that cannot be kept."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.api.gateway.fake_backend import FakeBackend
from tests.api.gateway.test_inference import ask
from tests.api.stack import Api, Tenant, running, running_api

from .test_jobs import create, refused, upload

SERVED = "tiny-random"
UNSERVED = "smollm2-135m-instruct"
TO_MEND = (f"served are: {SERVED}.", f"luthier serve --base {UNSERVED}", "LUTHIER_BACKENDS=")


@pytest.fixture
def front(api: Api) -> Iterator[Api]:
    with running(FakeBackend().app()) as url:
        settings = api.settings.replace(backends={SERVED: (url,)}, train_unserved=False)
        with running_api(settings) as front:
            yield front


@pytest.fixture
def client(front: Api, tenant: Tenant) -> Iterator[openai.OpenAI]:
    with front.client(tenant) as client:
        yield client


def test_no_job_is_made_that_ends_in_a_model_which_nobody_can_call(
    front: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    with front.http(tenant) as http:
        http.post("/v1/luthier/aliases", json={"alias": "mine", "model": UNSERVED})
    tuned = front.tuned_model(tenant, base_model=UNSERVED).name
    for model in (UNSERVED, "mine", tuned):
        message, param, code = refused(client, model=model)
        assert (param, code) == ("model", "model_not_served")
        for words in (*TO_MEND, "LUTHIER_TRAIN_UNSERVED=1"):
            assert words in message
        with front.http(tenant) as http:
            body = {"model": model, "training_file": upload(client)}
            reply = http.post("/v1/fine-tunes", json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "model_not_served"
        # A name of old is not what is wrong here.
        assert "--alias" not in reply.text
    assert list(client.fine_tuning.jobs.list()) == []
    assert create(client, model=SERVED).status == "validating_files"


def test_a_paused_job_does_not_go_on_to_such_an_end(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    with api.client(tenant) as before:
        job = create(before, model=UNSERVED)
        before.fine_tuning.jobs.pause(job.id)
    with pytest.raises(openai.BadRequestError, match="luthier serve --base"):
        client.fine_tuning.jobs.resume(job.id)
    assert str(client.fine_tuning.jobs.retrieve(job.id).status) == "paused"
    with api.client(tenant) as after:
        assert after.fine_tuning.jobs.resume(job.id).status == "queued"


def test_it_is_not_listed_and_a_request_to_it_says_how_to_mend_that(
    front: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    tuned = front.tuned_model(tenant, base_model=UNSERVED).name
    # The tuned model exists all the same: its weights can be downloaded.
    assert {model.id for model in client.models.list()} == {SERVED, tuned}
    with pytest.raises(openai.NotFoundError, match="luthier serve --base"):
        client.models.retrieve(UNSERVED)
    for model in (UNSERVED, tuned):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, model)
        assert (caught.value.param, caught.value.code) == ("model", "model_not_served")
        assert all(words in caught.value.message for words in TO_MEND)


def test_who_wants_the_weights_alone_may_train_on_it(api: Api, tenant: Tenant) -> None:
    settings = api.settings.replace(train_unserved=True)
    with running_api(settings) as own, own.client(tenant) as client:
        assert create(client, model=UNSERVED).model == UNSERVED
        assert UNSERVED in {model.id for model in client.models.list()}
