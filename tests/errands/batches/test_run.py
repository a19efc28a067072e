"""Batches from the input file to the output file, whatever happens on the way."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from errands.batches import run as batch_run
from errands.batches.run import CRASH_POINTS
from errands.errands import Errands
from errands.sweep import BatchCleanup
from foundation.crash_points import ENV
from foundation.vault import Vault
from storage import leases, queue
from storage.files import files
from storage.inference import batches
from storage.inference.batches import BatchRow
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from tests.errands.test_errands import running
from tests.factories import Json
from tests.worker.scene import wait_for

from . import one_batch
from .batch_scene import BatchScene, request, requests


@pytest.fixture
def scene(batch_scene: BatchScene) -> BatchScene:
    return batch_scene


def ids(lines: list[Json]) -> list[str]:
    return sorted(line["custom_id"] for line in lines)


def on_thread(scene: BatchScene, batch_id: str) -> tuple[threading.Thread, Errands]:
    errands = scene.errands()
    thread = threading.Thread(target=batch_run.run, args=(errands, batch_id), daemon=True)
    thread.start()
    return thread, errands


def test_batch_is_answered_line_by_line(scene: BatchScene) -> None:
    content = [*requests(9), request("bad-1", "bad one"), request("busy-1", "busy one")]
    content.append(request("lost-1", body={"model": "gpt-unknown", "messages": []}))
    batch_id = scene.batch(content, output_expires_after_s=3600)
    row = scene.run(batch_id)
    assert (row.status, row.num_lines, row.num_completed, row.num_failed) == (
        "completed",
        12,
        10,
        2,
    )
    assert row.model is None
    assert row.crashes == 0
    assert row.lease_owner is None
    stamps = (row.created_at, row.in_progress_at, row.finalizing_at, row.completed_at)
    assert list(stamps) == sorted(stamps)  # type: ignore[type-var]
    assert (row.input_tokens, row.cached_tokens, row.output_tokens) == (30, 10, 20)
    output, errors = scene.answers(batch_id)
    assert ids(output) == sorted([*(f"line-{n}" for n in range(9)), "busy-1"])
    line = next(line for line in output if line["custom_id"] == "line-3")
    assert line["id"].startswith("batch_req_")
    assert line["error"] is None
    assert line["response"]["status_code"] == 200
    assert line["response"]["request_id"].startswith("req_")
    assert line["response"]["body"]["model"] == "tiny-random"
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "Re: Question 3"
    refused = {line["custom_id"]: line["response"] for line in errors}
    assert refused["bad-1"]["status_code"] == 400
    assert refused["bad-1"]["body"]["error"]["code"] == "too_long"
    assert refused["lost-1"]["status_code"] == 404
    assert scene.model.asked["busy one"] == 2
    assert scene.model.most_at_once <= 4
    BatchCleanup(scene.errands()).once()
    assert scene.chunk_keys() == []


def test_files_of_a_batch_are_its_projects_and_expire(scene: BatchScene) -> None:
    kept, short = scene.batch(requests(1)), scene.batch(requests(1), output_expires_after_s=3600)
    for batch_id, expires_after_s in ((kept, 30 * 86400), (short, 3600)):
        row = scene.run(batch_id)
        with scene.api.sessions() as session:
            file = files.get(session, scene.tenant.project_id, row.output_file_id or "")
        assert file.purpose == "batch_output"
        assert file.filename == f"{batch_id}_output.jsonl"
        assert file.expires_at == file.created_at + timedelta(seconds=expires_after_s)
        assert row.error_file_id is None


def test_end_of_a_batch_is_told_to_the_webhooks_of_its_project(scene: BatchScene) -> None:
    types: list[webhooks.EventType] = ["batch.completed", "batch.failed"]
    with scene.api.sessions.begin() as session:
        for project_id in (scene.tenant.project_id, scene.api.tenant().project_id):
            webhooks.create(
                session, project_id, Vault(), name="x", url="https://x.invalid/", event_types=types
            )
    ended = [scene.batch(requests(1)), scene.batch(b"")]
    for batch_id in ended:
        scene.run(batch_id)
    with scene.api.sessions() as session:
        of_these = select(WebhookDeliveryRow).where(WebhookDeliveryRow.object_id.in_(ended))
        told = session.scalars(of_these).all()
    assert [(row.type, row.object_id) for row in told] == list(zip(types, ended, strict=True))


def test_requests_of_a_batch_say_whose_they_are(scene: BatchScene) -> None:
    row = scene.run(scene.batch(requests(1)))
    assert row.model == "tiny-random"
    # Prefixes are shared within a project only, so the gateway's caller was this project.
    assert scene.model.headers[0]["x-luthier-cache-salt"] == scene.tenant.project_id


def test_process_killed_at_every_crash_point_in_turn_answers_each_line_once(
    scene: BatchScene,
) -> None:
    batch_id = scene.batch([*requests(5), request("bad-1", "bad one")])
    for name in CRASH_POINTS:
        process = one_batch.start(scene.settings, batch_id, **{ENV: name})
        process.join(timeout=30)
        assert process.exitcode == 137, name
        assert (scene.row(batch_id).status == "completed") == (name == "after_end"), name
        # More deaths in a row than a batch may have; here they are what is tested.
        scene.set(batch_id, crashes=0)
    row = scene.row(batch_id)
    assert (row.num_completed, row.num_failed) == (5, 1)
    output, errors = scene.answers(batch_id)
    assert ids(output) == sorted(f"line-{n}" for n in range(5))
    assert ids(errors) == ["bad-1"]
    BatchCleanup(scene.errands()).once()
    assert scene.chunk_keys() == []


@pytest.mark.slow
def test_process_that_is_killed_is_replaced_and_asks_only_for_what_is_missing(
    scene: BatchScene,
) -> None:
    batch_id = scene.batch([*requests(10), request("wait-1", "wait")])
    queue.run_errand(queue.RUN_BATCH, batch_id)
    with running(scene.settings) as process:
        wait_for(lambda: scene.row(batch_id).num_completed == 10, what="ten answers")
        process.kill()
    scene.model.is_open = True
    with running(scene.settings):
        # Nobody rings: its sweep finds what the dead one left.
        wait_for(lambda: scene.row(batch_id).status == "completed", what="the end")
    row = scene.row(batch_id)
    assert (row.num_completed, row.crashes) == (11, 0)
    assert {text for text, count in scene.model.asked.items() if count > 1} == {"wait"}
    assert len(scene.answers(batch_id)[0]) == 11


def test_cancel_keeps_what_is_answered_and_breaks_the_rest_off(scene: BatchScene) -> None:
    batch_id = scene.batch([*requests(3), *(request(f"wait-{n}", f"wait {n}") for n in range(30))])
    thread, _ = on_thread(scene, batch_id)
    wait_for(lambda: sum(scene.model.asked.values()) == 7, what="the requests")
    wait_for(lambda: scene.row(batch_id).num_completed == 3, what="the counts")
    assert scene.cancel(batch_id).status == "cancelling"
    thread.join(timeout=10)
    row = scene.row(batch_id)
    assert row.status == "cancelled"
    assert row.cancelling_at is not None
    assert row.cancelled_at is not None
    assert (row.num_lines, row.num_completed, row.num_failed) == (33, 3, 30)
    output, errors = scene.answers(batch_id)
    assert ids(output) == ["line-0", "line-1", "line-2"]
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert len(errors) == 30
    wait_for(lambda: scene.model.num_broken_off == 4, what="the end of the requests")


def test_batch_that_is_cancelled_before_it_begins_has_no_files(scene: BatchScene) -> None:
    batch_id = scene.batch(requests(3))
    scene.cancel(batch_id)
    scene.cancel(batch_id)
    row = scene.run(batch_id)
    assert row.status == "cancelled"
    assert (row.output_file_id, row.error_file_id, row.num_lines) == (None, None, 0)
    assert not scene.model.asked


def test_window_that_is_over_ends_the_batch_with_what_there_is(scene: BatchScene) -> None:
    batch_id = scene.batch([*requests(2), *(request(f"wait-{n}", "wait") for n in range(5))])
    thread, _ = on_thread(scene, batch_id)
    wait_for(lambda: scene.row(batch_id).num_completed == 2, what="the counts")
    scene.set(batch_id, expires_at=func.now())
    thread.join(timeout=10)
    row = scene.row(batch_id)
    assert (row.status, row.num_completed, row.num_failed) == ("expired", 2, 5)
    assert row.expired_at is not None
    _, errors = scene.answers(batch_id)
    assert errors[0]["response"] is None
    assert errors[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_process_that_is_told_to_end_lets_go_at_once_and_another_goes_on(
    scene: BatchScene,
) -> None:
    batch_id = scene.batch([*requests(3), request("wait-1", "wait")])
    thread, errands = on_thread(scene, batch_id)
    wait_for(lambda: scene.row(batch_id).num_completed == 3, what="the counts")
    errands.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()
    row = scene.row(batch_id)
    assert (row.status, row.lease_owner, row.crashes) == ("in_progress", None, 0)
    assert queue.depth(queue.ERRANDS_QUEUE) >= 1
    scene.model.is_open = True
    assert scene.run(batch_id).status == "completed"


def test_process_that_lost_its_lease_writes_nothing_more(scene: BatchScene) -> None:
    batch_id = scene.batch([request("wait-1", "wait")])
    thread, _ = on_thread(scene, batch_id)
    wait_for(lambda: scene.model.asked["wait"] == 1, what="the request")
    other = scene.errands()
    over = {"lease_expires_at": func.now() - timedelta(seconds=1)}
    with other.sessions.begin() as session:
        session.execute(update(BatchRow).where(BatchRow.id == batch_id).values(over))
        claim = leases.claim(session, BatchRow, batch_id, other.name)
    scene.model.is_open = True
    thread.join(timeout=5)
    assert not thread.is_alive()
    row = scene.row(batch_id)
    assert claim is not None
    assert (row.lease_owner, row.lease_token) == (other.name, claim.lease_token)
    assert row.num_completed == 0


def test_api_that_is_away_costs_time_and_nothing_else(scene: BatchScene) -> None:
    batch_id = scene.batch(requests(1))
    errands = scene.errands(api_url="http://127.0.0.1:9")
    thread = threading.Thread(target=batch_run.run, args=(errands, batch_id), daemon=True)
    thread.start()
    wait_for(lambda: scene.row(batch_id).status == "in_progress", what="the beginning")
    thread.join(timeout=0.5)
    assert scene.row(batch_id).num_failed == 0
    errands.stop()
    thread.join(timeout=5)
    assert scene.run(batch_id).num_completed == 1


def test_batch_that_kills_its_process_is_given_up(scene: BatchScene) -> None:
    batch_id = scene.batch(requests(1))
    scene.set(batch_id, crashes=batch_run.MAX_CRASHES)
    row = scene.run(batch_id)
    assert row.status == "failed"
    assert row.errors is not None
    assert row.errors[0]["code"] == "server_error"


def test_input_that_vanishes_on_the_way_fails_the_batch_with_what_there_is(
    scene: BatchScene,
) -> None:
    file = scene.file([*requests(2), request("wait-1", "wait")])
    batch_id = scene.batch(file)
    thread, errands = on_thread(scene, batch_id)
    wait_for(lambda: scene.row(batch_id).num_completed == 2, what="the counts")
    errands.stop()
    thread.join(timeout=5)
    with scene.api.sessions.begin() as session:
        files.remove(session, scene.tenant.project_id, file.id)
    row = scene.run(batch_id)
    assert row.status == "failed"
    assert row.errors is not None
    assert row.errors[0]["code"] == "invalid_input_file"
    assert len(scene.answers(batch_id)[0]) == 2


def problems(
    scene: BatchScene, content: Any, **values: Any
) -> list[tuple[str, str | None, int | None]]:
    """Code, param and line of what is wrong with a batch."""
    row = scene.run(scene.batch(content, **values))
    assert row.status == "failed"
    assert row.failed_at is not None
    assert row.errors is not None
    assert not scene.model.asked
    return [(error["code"], error["param"], error["line"]) for error in row.errors]


def test_input_file_that_cannot_be_a_batch_fails_it(scene: BatchScene) -> None:
    no_stream = request("s")["body"] | {"stream": True}
    lines = [
        request("a"),
        request("a"),
        request("b", url="/v1/completions"),
        request("c", method="GET"),
        request("d", body=[]),
        request("e", body={"messages": []}),
        request("f", body=no_stream),
        {"custom_id": "g"},
        request(""),
    ]
    assert problems(scene, lines) == [
        ("duplicate_custom_id", "custom_id", 2),
        ("invalid_url", "url", 3),
        ("invalid_method", "method", 4),
        ("invalid_request", "body", 5),
        ("invalid_request", "body.model", 6),
        ("invalid_request", "body.stream", 7),
        ("missing_required_parameter", "method", 8),
        ("invalid_custom_id", "custom_id", 9),
    ]
    in_background = request("s")["body"] | {"background": True}
    lines = [request("a", url="/v1/responses", body=in_background)]
    assert problems(scene, lines, endpoint="/v1/responses") == [
        ("invalid_request", "body.background", 1)
    ]
    assert problems(scene, b'{"custom_id": \n[1]\n') == [
        ("invalid_json_line", None, 1),
        ("invalid_json_line", None, 2),
    ]
    assert problems(scene, b"\n\n") == [("empty_file", "input_file_id", None)]
    assert len(problems(scene, b"{\n" * 500)) == 100


def test_line_that_the_api_would_not_take_is_refused_with_its_number(
    scene: BatchScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line may have as much as a body, and so may its body as it is sent: 1e15 is 1000000000000000.0."""
    monkeypatch.setattr("errands.batches.input.MAX_LONG_BODY_BYTES", 4000)
    body = b'{"model": "tiny-random", "messages": [], "logit_bias": {%s}}'
    numbers = b", ".join(b'"%d": 1e15' % i for i in range(200))
    head = b'{"custom_id": "%d", "method": "POST", "url": "/v1/chat/completions", "body": '
    lines = [
        head % 0 + body % b"" + b"}",
        head % 1 + body % b"" + b" " * 5000 + b"}",
        head % 2 + body % numbers + b"}",
    ]
    assert len(lines[2]) < 4000
    assert problems(scene, b"\n".join(lines)) == [
        ("invalid_json_line", None, 2),
        ("invalid_request", "body", 3),
    ]


def test_batch_that_this_server_cannot_run_fails_with_the_reason(
    scene: BatchScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = scene.file(requests(1), purpose="fine-tune")
    assert problems(scene, wrong) == [("invalid_input_file", "input_file_id", None)]
    gone = [("invalid_input_file", "input_file_id", None)]
    assert problems(scene, wrong, input_file_id="file-unknown") == gone
    assert problems(scene, requests(1), endpoint="/v1/embeddings") == [
        ("unsupported_endpoint", "endpoint", None)
    ]
    monkeypatch.setattr("errands.batches.input.MAX_LINES", 2)
    assert problems(scene, requests(5)) == [("too_many_tasks", "input_file_id", None)]
    monkeypatch.setattr("errands.batches.input.MAX_BYTES", 10)
    assert problems(scene, requests(5)) == [("file_too_large", "input_file_id", None)]


def test_file_of_another_project_is_an_unknown_one(scene: BatchScene) -> None:
    file = scene.file(requests(1))
    other = scene.api.tenant()
    batch_id = scene.batch(file, project_id=other.project_id)
    batch_run.run(scene.errands(), batch_id)
    with scene.api.sessions() as session:
        row = batches.get(session, other.project_id, batch_id)
    assert row.errors is not None
    assert row.errors[0]["message"] == f"No such File object: {file.id}"
