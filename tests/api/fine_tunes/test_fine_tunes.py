from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import func, update

from storage.jobs import events
from storage.jobs.jobs import JobRow
from tests.api.fine_tuning.test_jobs import upload
from tests.api.stack import Api, Tenant

Json = dict[str, Any]


@pytest.fixture
def training_file(client: openai.OpenAI) -> str:
    return upload(client)


def post(api: Api, tenant: Tenant, body: Json) -> httpx.Response:
    with api.http(tenant) as http:
        return http.post("/v1/fine-tunes", json=body)


def get(api: Api, tenant: Tenant, path: str = "") -> Any:
    with api.http(tenant) as http:
        reply = http.get(f"/v1/fine-tunes{path}")
    assert reply.status_code == 200
    return reply.json()


def create(api: Api, tenant: Tenant, training_file: str, **options: Any) -> Json:
    body = {"model": "tiny-random", "training_file": training_file, **options}
    reply = post(api, tenant, body)
    assert reply.status_code == 200, reply.text
    fine_tune: Json = reply.json()
    return fine_tune


def test_a_new_fine_tune_has_the_old_shape(api: Api, tenant: Tenant, training_file: str) -> None:
    fine_tune = create(api, tenant, training_file, suffix="support")
    told = fine_tune.pop("events")
    job_id = fine_tune.pop("id")
    assert job_id.startswith("ft-")
    assert fine_tune.pop("created_at") <= fine_tune.pop("updated_at")
    (file,) = fine_tune.pop("training_files")
    assert (file["id"], file["object"], file["filename"]) == (training_file, "file", "rows.jsonl")
    assert fine_tune == {
        "object": "fine-tune",
        "model": "tiny-random",
        "fine_tuned_model": None,
        "organization_id": "org-luthier",
        "status": "pending",
        "hyperparams": {
            "batch_size": None,
            "learning_rate_multiplier": None,
            "n_epochs": 4,
            "prompt_loss_weight": 0.0,
        },
        "validation_files": [],
        "result_files": [],
    }
    assert [event["message"] for event in told][:2] == [
        f"Created fine-tune: {job_id}",
        "Fine-tune costs $0.00",
    ]
    assert told[2]["message"].startswith("Fine-tune enqueued. Queue number: ")
    assert {event["object"] for event in told} == {"fine-tune-event"}
    assert get(api, tenant, f"/{job_id}")["events"] == told
    assert get(api, tenant, f"/{job_id}/events") == {"object": "list", "data": told}
    (listed,) = get(api, tenant)["data"]
    assert listed["id"] == job_id
    assert "events" not in listed


def test_each_api_knows_its_own_jobs_only(
    api: Api, tenant: Tenant, client: openai.OpenAI, training_file: str
) -> None:
    fine_tune = create(api, tenant, training_file)
    job = client.fine_tuning.jobs.create(model="tiny-random", training_file=training_file)
    assert [found.id for found in client.fine_tuning.jobs.list()] == [job.id]
    assert [found["id"] for found in get(api, tenant)["data"]] == [fine_tune["id"]]
    for ask in (
        client.fine_tuning.jobs.retrieve,
        client.fine_tuning.jobs.cancel,
        client.fine_tuning.jobs.pause,
        client.fine_tuning.jobs.list_events,
    ):
        with pytest.raises(openai.NotFoundError):
            ask(fine_tune["id"])
    with api.http(tenant) as http:
        assert http.get(f"/v1/fine-tunes/{job.id}").status_code == 404
        assert http.get(f"/v1/fine-tunes/{job.id}/events").status_code == 404
        assert http.post(f"/v1/fine-tunes/{job.id}/cancel").status_code == 404


def test_the_course_of_a_job_is_told_in_the_old_words(
    api: Api, tenant: Tenant, training_file: str
) -> None:
    job_id = create(api, tenant, training_file, n_epochs=2)["id"]
    result_file = training_file
    with api.sessions.begin() as session:
        events.add(session, job_id, "validating", "Validating training file", data={})
        events.add(session, job_id, "validated", "Files validated", data={})
        events.add(session, job_id, "started", "Fine-tuning job started")
        for step in range(1, 7):
            data = {"step": step, "total_steps": 6}
            events.add(session, job_id, f"step:{step}", "Step", type="metrics", data=data)
        events.add(session, job_id, "checkpoint:3", "Checkpoint created", data={})
        events.add(session, job_id, "crash:1", "Attempt 1 was interrupted", level="warn", data={})
        events.add(session, job_id, "model", "New fine-tuned model created", data={})
        events.add(session, job_id, "succeeded", "The job has successfully completed", data={})
        session.execute(
            update(JobRow)
            .where(JobRow.id == job_id)
            .values(
                status="succeeded",
                finished_at=func.now(),
                fine_tuned_model="curie:ft-acme-2026-01-02-03-04-05",
                result_files=[result_file],
            )
        )
    fine_tune = get(api, tenant, f"/{job_id}")
    assert [event["message"] for event in fine_tune["events"]][3:] == [
        "Fine-tune is in the queue. Queue number: 0",
        "Fine-tune started",
        "Completed epoch 1/2",
        "Completed epoch 2/2",
        "Attempt 1 was interrupted",
        "Uploaded model: curie:ft-acme-2026-01-02-03-04-05",
        f"Uploaded result file: {result_file}",
        "Fine-tune succeeded",
    ]
    assert fine_tune["status"] == "succeeded"
    assert fine_tune["result_files"][0]["id"] == result_file
    assert [json.loads(data) for data in streamed(api, tenant, job_id)] == fine_tune["events"]


def streamed(api: Api, tenant: Tenant, job_id: str) -> list[str]:
    """The data of a stream that is at its end."""
    with api.http(tenant) as http:
        reply = http.get(f"/v1/fine-tunes/{job_id}/events?stream=true")
    assert reply.headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return data


def test_cancel_ends_it(api: Api, tenant: Tenant, training_file: str) -> None:
    job_id = create(api, tenant, training_file)["id"]
    with api.http(tenant) as http:
        cancelled = http.post(f"/v1/fine-tunes/{job_id}/cancel").json()
        assert cancelled["status"] == "cancelled"
        assert cancelled["events"][-1]["message"] == "Fine-tune cancelled"
        assert http.post(f"/v1/fine-tunes/{job_id}/cancel").status_code == 400
    assert json.loads(streamed(api, tenant, job_id)[-1])["message"] == "Fine-tune cancelled"


def test_an_old_name_stands_for_what_the_operator_says(
    api: Api, tenant: Tenant, client: openai.OpenAI, training_file: str
) -> None:
    # The server of these tests was started with --alias gpt-4o-mini=tiny-random.
    fine_tune = create(api, tenant, training_file, model="gpt-4o-mini")
    assert fine_tune["model"] == "gpt-4o-mini"
    with api.sessions() as session:
        row = session.get_one(JobRow, fine_tune["id"])
        assert (row.base_model, row.legacy and row.legacy["name"]) == ("tiny-random", "gpt-4o-mini")
    reply = post(api, tenant, {"training_file": training_file})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_available")
    assert "luthier serve --alias curie=BASE" in error["message"]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"compute_classification_metrics": True}, "validation_file"),
        ({"classification_n_classes": 1}, "classification_n_classes"),
        ({"classification_betas": [0]}, "classification_betas.0"),
        ({"prompt_loss_weight": -1}, "prompt_loss_weight"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"batch_size": 257}, "batch_size"),
        ({"learning_rate_multiplier": 0}, "learning_rate_multiplier"),
        ({"learning_rate_multiplier": 1e22}, "learning_rate_multiplier"),
        ({"suffix": "x" * 41}, "suffix"),
        ({"suffix": "a:b"}, "suffix"),
        ({"training_file": "file-unknown"}, "training_file"),
        ({"validation_file": "file-unknown"}, "validation_file"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    api: Api, tenant: Tenant, training_file: str, options: Json, param: str
) -> None:
    body = {"model": "tiny-random", "training_file": training_file, **options}
    reply = post(api, tenant, body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert get(api, tenant)["data"] == []


def test_classification_metrics_are_those_of_a_job_that_classifies(
    api: Api, tenant: Tenant, training_file: str
) -> None:
    asked = {"validation_file": training_file, "compute_classification_metrics": True}
    body = {"model": "tiny-random", "training_file": training_file, **asked}
    reply = post(api, tenant, body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "classification_n_classes")
    fine_tune = create(
        api,
        tenant,
        training_file,
        **asked,
        classification_n_classes=2,
        classification_positive_class=" yes",
        classification_betas=[0.5, 1],
    )
    with api.sessions() as session:
        row = session.get_one(JobRow, fine_tune["id"])
        assert row.method == "classification"
        wanted = {"n_classes": 2, "positive_class": " yes", "betas": [0.5, 1.0]}
        assert {name: row.hyperparameters[name] for name in wanted} == wanted


def test_what_is_done_otherwise_is_told_as_a_warning(
    api: Api, tenant: Tenant, training_file: str
) -> None:
    fine_tune = create(
        api,
        tenant,
        training_file,
        prompt_loss_weight=0.01,
        learning_rate_multiplier=0.1,
        classification_positive_class=" yes",
        compute_classification_metrics=False,
    )
    warnings = [event["message"] for event in fine_tune["events"] if event["level"] == "warn"]
    assert [text.split("=")[0].split(",")[0] for text in warnings] == [
        "prompt_loss_weight",
        "learning_rate_multiplier",
        "Without effect",
    ]
    assert fine_tune["hyperparams"]["learning_rate_multiplier"] == 0.1


def test_of_a_deleted_file_the_id_is_left(
    api: Api, tenant: Tenant, client: openai.OpenAI, training_file: str
) -> None:
    job_id = create(api, tenant, training_file)["id"]
    client.files.delete(training_file)
    (file,) = get(api, tenant, f"/{job_id}")["training_files"]
    assert (file["id"], file["status"]) == (training_file, "deleted")
