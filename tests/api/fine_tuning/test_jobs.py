from __future__ import annotations

import base64
import json
import re
from typing import Any

import openai
import pytest
import redis
from openai.types.fine_tuning import FineTuningJob
from sqlalchemy import func, update

from storage.jobs.jobs import JobRow
from tests.api.stack import Api, Tenant
from tests.factories import colour_rows, jsonl

ROWS = jsonl(colour_rows(10))
GRADER = {"type": "string_check", "name": "same", "input": "a", "reference": "a", "operation": "eq"}


def upload(client: openai.OpenAI, purpose: Any = "fine-tune") -> str:
    return client.files.create(file=("rows.jsonl", ROWS), purpose=purpose).id


def create(client: openai.OpenAI, **options: Any) -> FineTuningJob:
    if "training_file" not in options:
        options["training_file"] = upload(client)
    return client.fine_tuning.jobs.create(**{"model": "tiny-random", **options})


def refused(client: openai.OpenAI, **options: Any) -> tuple[str, str | None, str | None]:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **options)
    return caught.value.message.partition(" - ")[2], caught.value.param, caught.value.code


def test_a_new_job_has_every_field_of_the_wire(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    training, validation = upload(client), upload(client)
    with api.http(tenant) as http:
        reply = http.post(
            "/v1/fine_tuning/jobs",
            json={
                "model": "gpt-4o-mini",
                "training_file": training,
                "validation_file": validation,
                "suffix": "my-suffix_1.0",
                "seed": 7,
                "metadata": {"team": "paint"},
                "integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}],
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": {"n_epochs": 3}},
                    # Blocks of other methods mean nothing, whatever is in them.
                    "dpo": {"hyperparameters": {"beta": "much"}},
                    "reinforcement": {},
                },
                "a_field_of_the_future": {"x": 1},
            },
        )
    assert reply.status_code == 200
    job = reply.json()
    assert re.fullmatch(r"ftjob-\w{24}", job.pop("id"))
    assert isinstance(job.pop("created_at"), int)
    hyperparameters = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job == {
        "object": "fine_tuning.job",
        "error": None,
        "estimated_finish": None,
        "eval_id": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "hyperparameters": hyperparameters,
        "integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"]}}],
        "metadata": {"team": "paint"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "model": "tiny-random",
        "organization_id": "org-luthier",
        "result_files": [],
        "seed": 7,
        "shared_with_openai": False,
        "status": "validating_files",
        "trained_tokens": None,
        "training_file": training,
        "usage_metrics": None,
        "user_provided_suffix": "my-suffix_1.0",
        "validation_file": validation,
    }


def strict_client(api: Api, tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{api.url}/v1",
        api_key=tenant.key,
        max_retries=0,
        _strict_response_validation=True,
    )


def test_the_strict_client_accepts_a_job_in_every_state(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    job = create(client)
    strict = strict_client(api, tenant)
    error = {"code": "invalid_n_examples", "message": "too few", "param": "training_file"}
    states: list[dict[str, Any]] = [
        {},
        {"status": "running", "estimated_finish": func.now()},
        {"status": "failed", "error": error, "finished_at": func.now()},
        {"status": "succeeded", "error": None, "fine_tuned_model": "ft:x", "trained_tokens": 5},
    ]
    with strict:
        for values in states:
            if values:
                with api.sessions.begin() as session:
                    session.execute(update(JobRow).where(JobRow.id == job.id).values(**values))
            found = strict.fine_tuning.jobs.retrieve(job.id)
            assert found.status == values.get("status", "validating_files")
            assert strict.fine_tuning.jobs.list().data == [found]


def test_defaults_are_auto_and_the_seed_is_made(client: openai.OpenAI) -> None:
    first, second = create(client), create(client, seed=None, hyperparameters={})
    assert first.hyperparameters.model_dump() == {
        "n_epochs": "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    assert 0 <= first.seed < 2**31
    assert first.seed != second.seed
    assert create(client, seed=0).seed == 0
    assert first.validation_file is None
    assert first.integrations == []


def test_hyperparameters_at_the_top_level_are_as_good(client: openai.OpenAI) -> None:
    job = create(
        client,
        hyperparameters={"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5},
        method={"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 4}}},
    )
    assert job.hyperparameters.n_epochs == 2
    assert job.hyperparameters.batch_size == 4
    assert job.hyperparameters.learning_rate_multiplier == 0.5
    assert create(client, hyperparameters={"n_epochs": None}).hyperparameters.n_epochs == "auto"
    assert create(client, method={"type": "supervised"}).method is not None


@pytest.mark.parametrize(
    ("options", "words", "param", "code"),
    [
        ({"model": "gpt-nonexistent"}, "Model gpt-nonexistent is not available for fine-tuning or does not exist.", None, "model_not_available"),
        ({"model": "ft:tiny-random:acme::nothing1"}, "is not available for fine-tuning", None, "model_not_available"),
        ({"model": 7}, "Invalid type for 'model': expected a string, but got an integer instead.", "model", "invalid_type"),
        ({"training_file": "file-x"}, "invalid training_file: file-x", "training_file", None),
        ({"validation_file": "7"}, "invalid validation_file: 7", "validation_file", None),
        ({"suffix": "x" * 65}, "Expected a string with maximum length 64, but got a string with length 65", "suffix", "string_above_max_length"),
        ({"suffix": ""}, "minimum length 1", "suffix", "string_below_min_length"),
        ({"suffix": "my model:1"}, "only letters, digits, '.', '_' and '-' are allowed, but got 'my model:1'", "suffix", "invalid_value"),
        ({"seed": -1}, "integer below minimum value. Expected a value >= 0, but got -1", "seed", "integer_below_min_value"),
        ({"seed": 2**31}, "integer above maximum value", "seed", "integer_above_max_value"),
        ({"seed": "7"}, "expected an integer, but got a string", "seed", "invalid_type"),
        ({"seed": True}, "expected an integer, but got a boolean", "seed", "invalid_type"),
        ({"hyperparameters": {"n_epochs": 0}}, "expected 'auto' or an integer between 1 and 50, but got 0 instead", "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": 51}}, "between 1 and 50, but got 51", "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": 2.5}}, "but got 2.5", "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"n_epochs": True}}, "but got True", "hyperparameters.n_epochs", "invalid_value"),
        ({"hyperparameters": {"batch_size": 257}}, "between 1 and 256", "hyperparameters.batch_size", "invalid_value"),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "a number above 0", "hyperparameters.learning_rate_multiplier", "invalid_value"),
        ({"hyperparameters": {"learning_rate_multiplier": 1e22}}, "expected 'auto' or a number above 0, 100 at most, but got 1e+22", "hyperparameters.learning_rate_multiplier", "invalid_value"),
        ({"hyperparameters": {"learning_rate_multiplier": 10**300}}, "a number above 0, 100 at most, but got", "hyperparameters.learning_rate_multiplier", "invalid_value"),
        ({"hyperparameters": {"batch_size": 10**300}}, "between 1 and 256, but got", "hyperparameters.batch_size", "invalid_value"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "many"}}}}, "but got 'many'", "method.supervised.hyperparameters.n_epochs", "invalid_value"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.1}}}}, "expected 'auto' or a number above 0, 2 at most, but got 2.1 instead", "method.dpo.hyperparameters.beta", "invalid_value"),
        ({"method": {"type": "reinforcement"}}, "Missing required parameter: 'method.reinforcement'.", "method.reinforcement", "missing_required_parameter"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, "Missing required parameter", "method.reinforcement.grader", "missing_required_parameter"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "magic"}}}}, "Invalid value: 'magic'", "method.reinforcement.grader.type", "invalid_value"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": GRADER, "hyperparameters": {"compute_multiplier": 1e-5}}}}, "a number above 1e-05, 10 at most", "method.reinforcement.hyperparameters.compute_multiplier", "invalid_value"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": GRADER, "hyperparameters": {"eval_samples": 0}}}}, "an integer between 1 and 2147483647", "method.reinforcement.hyperparameters.eval_samples", "invalid_value"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": GRADER, "response_format": {"type": "text"}}}}, "The method 'reinforcement' is not available yet; use 'supervised', 'unsupervised'", "method.type", "invalid_value"),
        ({"method": {"type": "magic"}}, "Invalid value: 'magic'. Supported values are: 'supervised'", "method.type", "invalid_value"),
        ({"method": {}}, "Missing required parameter: 'method.type'.", "method.type", "missing_required_parameter"),
        ({"metadata": {"modified": True}}, "Invalid type for 'metadata.modified': expected a string, but got a boolean instead.", "metadata.modified", "invalid_type"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "Expected at most 16, but got 17", "metadata", "object_above_max_properties"),
        ({"metadata": {"k" * 65: "x"}}, "maximum length 64", None, "string_above_max_length"),
        ({"metadata": {"k": "x" * 513}}, "maximum length 512", "metadata.k", "string_above_max_length"),
        ({"metadata": {"k": "a\0b"}}, "NUL", "metadata.k", "invalid_value"),
        ({"integrations": [{"type": "mlflow"}]}, "Supported values are: 'wandb'", "integrations.0.type", "invalid_value"),
        ({"integrations": [{"type": "wandb", "wandb": {}}]}, "Missing required parameter: 'integrations.0.wandb.project'.", "integrations.0.wandb.project", "missing_required_parameter"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}] * 6}, "at most 5", "integrations", "array_above_max_length"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_openai_s_words(
    client: openai.OpenAI, options: dict[str, Any], words: str, param: str | None, code: str | None
) -> None:
    message, found_param, found_code = refused(client, **options)
    assert words in message
    assert found_code == code
    if param is not None:
        assert found_param == param


def test_a_file_must_be_the_project_s_own_and_for_training(api: Api, client: openai.OpenAI) -> None:
    with api.client(api.tenant()) as other:
        foreign = upload(other)
    assert f"invalid training_file: {foreign}" in refused(client, training_file=foreign)[0]
    batch = upload(client, "batch")
    assert "purpose 'batch'" in refused(client, training_file=batch)[0]


def test_training_goes_on_from_the_project_s_own_model_only(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    model = api.tuned_model(tenant)
    job = create(client, model=model.name)
    assert job.model == model.name
    with api.sessions.begin() as session:
        row = session.get_one(JobRow, job.id)
        assert (row.base_model, row.init_artifact_id) == ("tiny-random", model.artifact_id)
    foreign = api.tuned_model(api.tenant())
    assert refused(client, model=foreign.name)[2] == "model_not_available"
    orphan = api.tuned_model(tenant, base_model="a-base-that-is-gone")
    assert refused(client, model=orphan.name)[2] == "model_not_available"


def test_tuning_is_echoed_where_it_was_asked_for(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"type": "lora", "rank": 16}
    job = create(client, extra_body={"tuning": asked})
    expected = {**asked, "alpha": "auto", "targets": "auto", "rslora": "auto"}
    for found in (job, client.fine_tuning.jobs.retrieve(job.id)):
        assert (found.model_extra or {})["tuning"] == expected
    assert "tuning" not in (create(client).model_extra or {})
    words, param, _ = refused(client, extra_body={"tuning": {"type": "lora", "length": 4}})
    assert (param, "no option 'length'" in words) == ("tuning.length", True)


@pytest.mark.parametrize(
    "body", [b"", b"{broken", b"[]", b"[" * 100_000, b'{"seed": NaN}', b"\xff"]
)
def test_a_body_that_is_no_json_object_is_400(api: Api, tenant: Tenant, body: bytes) -> None:
    with api.http(tenant) as http:
        reply = http.post("/v1/fine_tuning/jobs", content=body)
    assert reply.status_code == 400
    assert "JSON body" in reply.json()["error"]["message"]


def test_a_body_too_large_is_413(api: Api, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.requests.bodies.MAX_BODY_BYTES", 1000)
    with api.http(tenant) as http:
        reply = http.post("/v1/fine_tuning/jobs", content=b" " * 2000)
    assert reply.status_code == 413


def test_the_workers_are_told_once_the_row_is_there(client: openai.OpenAI, broker_url: str) -> None:
    job = create(client)
    with redis.Redis.from_url(broker_url) as broker:
        (message,) = broker.lrange("luthier:train", 0, -1)
    arguments, _, _ = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert arguments == [job.id]


def test_a_broker_that_is_away_does_not_matter(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage import queue

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no broker")

    monkeypatch.setattr(queue.app, "send_task", fail)
    assert create(client).status == "validating_files"


def test_lists_are_newest_first_and_filtered_by_metadata(client: openai.OpenAI) -> None:
    file = upload(client)
    ids = [
        create(client, training_file=file, metadata=metadata).id
        for metadata in (None, {"team": "a", "run": "1"}, {"team": "a"}, {"team": "b"})
    ]

    def listed(**options: Any) -> list[str]:
        return [job.id for job in client.fine_tuning.jobs.list(**options)]

    assert listed(limit=3) == ids[::-1]
    assert listed(metadata={"team": "a"}) == [ids[2], ids[1]]
    assert listed(metadata={"team": "a", "run": "1"}) == [ids[1]]
    assert listed(metadata={"team": "c"}) == []
    assert listed(extra_query={"metadata": "null"}) == [ids[0]]
    assert listed(after="ftjob-unknown") == []
    page = client.fine_tuning.jobs.list(limit=0)
    assert (page.data, page.has_more) == ([], False)
    raw = client.fine_tuning.jobs.with_raw_response.list(limit=1).http_response.json()
    assert set(raw) == {"object", "data", "has_more"}


def test_cancelling_ends_a_job_once(client: openai.OpenAI) -> None:
    job = create(client)
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    assert cancelled.finished_at >= cancelled.created_at
    assert client.fine_tuning.jobs.retrieve(job.id) == cancelled
    with pytest.raises(openai.BadRequestError, match="already been cancelled"):
        client.fine_tuning.jobs.cancel(job.id)


def test_a_job_is_paused_and_resumed(
    client: openai.OpenAI, api: Api, tenant: Tenant, broker_url: str
) -> None:
    job = create(client)
    strict = strict_client(api, tenant)
    assert strict.fine_tuning.jobs.pause(job.id).status == "validating_files"
    paused: Any = client.fine_tuning.jobs.retrieve(job.id).status
    assert paused == "paused"
    assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
    with pytest.raises(openai.BadRequestError, match="already been paused"):
        client.fine_tuning.jobs.pause(job.id)
    with redis.Redis.from_url(broker_url) as broker:
        broker.flushall()
        assert strict.fine_tuning.jobs.resume(job.id).status == "queued"
        assert broker.llen("luthier:train") == 1
    with pytest.raises(openai.BadRequestError, match="is not paused"):
        client.fine_tuning.jobs.resume(job.id)
    # Some clients send an empty object.
    with api.http(tenant) as http:
        reply = http.post(f"/v1/fine_tuning/jobs/{job.id}/pause", json={})
    assert reply.json()["status"] == "queued"


def test_an_unknown_job_is_404(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    checkpoints = jobs.checkpoints.list
    for call in (
        *(jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events),
        checkpoints,
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call("123")
        assert caught.value.body == {
            "message": "Could not find fine tune: 123",
            "type": "invalid_request_error",
            "param": "fine_tune_id",
            "code": "fine_tune_not_found",
        }
