"""Batches of what is no chat."""

from __future__ import annotations

from tests.api.gateway.test_classifications import classifier

from .batch_scene import BatchScene, request


def test_batch_of_responses(batch_scene: BatchScene) -> None:
    body = {"model": "tiny-random", "input": "Hello", "store": False}
    lines = [request("one", url="/v1/responses", body=body)]
    batch_id = batch_scene.batch(lines, endpoint="/v1/responses")
    row = batch_scene.run(batch_id)
    assert (row.input_tokens, row.cached_tokens, row.output_tokens) == (3, 1, 2)
    (answered,), _ = batch_scene.answers(batch_id)
    (item,) = answered["response"]["body"]["output"]
    assert item["content"][0]["text"] == "Re: Hello"


def test_batch_of_moderations(batch_scene: BatchScene) -> None:
    name = classifier(batch_scene.api, batch_scene.tenant, texts=("safe", "hate")).name
    lines = [
        request("one", url="/v1/moderations", body={"input": "fine", "model": name}),
        request("two", url="/v1/moderations", body={"input": "fine"}),
        request("three", url="/v1/moderations", body={"input": ["hate"], "model": name}),
    ]
    batch_id = batch_scene.batch(lines, endpoint="/v1/moderations")
    row = batch_scene.run(batch_id)
    assert (row.status, row.num_completed, row.num_failed, row.model) == ("completed", 2, 1, None)
    output, errors = batch_scene.answers(batch_id)
    flagged = {
        line["custom_id"]: line["response"]["body"]["results"][0]["flagged"] for line in output
    }
    assert flagged == {"one": False, "three": True}
    # The project has no classifier that is meant where none is named.
    assert errors[0]["response"]["body"]["error"]["code"] == "model_not_found"
    nameless = batch_scene.batch([{**lines[0], "body": {"model": 7}}], endpoint="/v1/moderations")
    (problem,) = list(batch_scene.run(nameless).errors or [])
    assert (problem["code"], problem["param"]) == ("invalid_request", "body.model")
