from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import openai
import pytest
from fastapi.responses import JSONResponse

from grading import sandbox
from tests.api.gateway.fake_backend import FakeBackend
from tests.api.stack import Api, Tenant, running, running_api

CHECK: Any = {
    **{"type": "string_check", "name": "exact", "operation": "eq"},
    **{"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"},
}
SCORE: Any = {
    **{"type": "score_model", "name": "judge", "model": "gpt-4o-mini"},
    "input": [{"role": "user", "content": "Judge {{ sample.output_text }}"}],
}
LABEL = SCORE | {"type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}
PYTHON: Any = {
    **{"type": "python", "name": "code", "image_tag": "2025-05-08"},
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['n']\n",
}


def multi(parts: Any, formula: str) -> Any:
    return {"type": "multi", "name": "m", "graders": parts, "calculate_output": formula}


@contextmanager
def judged_by(api: Api, content: str | None, **message: Any) -> Iterator[tuple[Api, FakeBackend]]:
    """The api in front of a model that always answers this."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": content, **message}}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    completion = {
        **{"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tiny-random"},
        **{"choices": [choice], "usage": usage},
    }
    backend = FakeBackend(answer=JSONResponse(completion))
    with running(backend.app()) as url:
        settings = api.settings.replace(backends={"tiny-random": (url,)}, internal_key="internal")
        with running_api(settings) as front:
            yield front, backend


@pytest.fixture(scope="module")
def has_sandbox() -> bool:
    try:
        asyncio.run(sandbox.require())
    except sandbox.SandboxUnavailable:
        return False
    return True


def post(api: Api, tenant: Tenant, path: str, body: Any) -> httpx.Response:
    with api.http(tenant) as http:
        return http.post(f"/v1/fine_tuning/alpha/graders/{path}", json=body)


def test_a_grader_runs_and_gives_the_whole_reply(client: openai.OpenAI) -> None:
    run = client.fine_tuning.alpha.graders.run(
        grader=CHECK, model_sample="42", item={"answer": "42"}
    )
    assert run.reward == 1.0
    assert run.sub_rewards == {}
    assert run.api_model_grader_token_usage_per_model == {}
    assert run.metadata.name == "exact"
    assert run.metadata.type == "string_check"
    assert run.metadata.execution_time >= 0
    assert run.metadata.scores == {}
    assert run.metadata.token_usage is None
    assert run.metadata.sampled_model_name is None
    assert not any(run.metadata.errors.model_dump().values())


def test_the_reply_is_what_a_strict_client_accepts(api: Api, tenant: Tenant) -> None:
    with openai.OpenAI(
        base_url=f"{api.url}/v1", api_key=tenant.key, _strict_response_validation=True
    ) as client:
        run = client.fine_tuning.alpha.graders.run(grader=CHECK, model_sample="x")
        assert run.metadata.errors.invalid_variable_error
        assert client.fine_tuning.alpha.graders.validate(grader=CHECK).grader is not None


def test_similarity_and_formula(client: openai.OpenAI) -> None:
    similar = CHECK | {"type": "text_similarity", "evaluation_metric": "fuzzy_match"}
    run = client.fine_tuning.alpha.graders.run(
        grader=multi({"exact": CHECK, "alike": similar}, "0.5 * exact + alike"),
        model_sample="abcd",
        item={"answer": "abcx"},
    )
    assert run.reward == 0.75
    assert run.sub_rewards == {"exact": 0.0, "alike": 0.75}


@pytest.mark.parametrize("parts", [{"exact": CHECK}, [CHECK], CHECK])
def test_a_valid_grader_is_echoed_as_it_was_sent(api: Api, tenant: Tenant, parts: Any) -> None:
    grader = multi(parts, "exact") | {"extra": [1, None]}
    assert post(api, tenant, "validate", {"grader": grader}).json() == {"grader": grader}


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (None, "grader"),
        ("x", "grader"),
        ({}, "grader.type"),
        ({"type": "nonsense"}, "grader.type"),
        (CHECK | {"operation": "nonsense"}, "grader.operation"),
        (multi({"x": CHECK | {"operation": "?"}}, "x"), "grader.graders.x.operation"),
        (multi([CHECK, CHECK], "x"), "grader.graders.1.name"),
        (SCORE | {"model": "nonsense"}, "grader.model"),
        (multi({"j": SCORE | {"model": "a\0"}}, "j"), "grader.graders.j.model"),
        (SCORE | {"range": [2, 1]}, "grader.range"),
        (LABEL | {"passing_labels": ["fine"]}, "grader.passing_labels"),
        (PYTHON | {"source": "#" * 262_145}, "grader.source"),
    ],
)
def test_a_grader_that_is_none_is_refused_by_its_field(
    api: Api, tenant: Tenant, grader: Any, param: str
) -> None:
    for path, rest in (("validate", {}), ("run", {"model_sample": "x"})):
        reply = post(api, tenant, path, {"grader": grader, **rest})
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        assert error["message"]


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        (CHECK | {"input": "{{ elsewhere.x }}"}, "grader.input"),
        (multi({"a": CHECK}, "a + b"), "grader.calculate_output"),
        (multi({"a": CHECK}, "9 +"), "grader.calculate_output"),
    ],
)
def test_validation_also_reads_templates_and_formula(
    client: openai.OpenAI, grader: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.alpha.graders.validate(grader=grader)
    assert caught.value.param == param
    run = client.fine_tuning.alpha.graders.run(
        grader=grader, model_sample="x", item={"answer": "x"}
    )
    assert run.reward == 0.0
    assert run.metadata.errors.invalid_variable_error or run.metadata.errors.formula_parse_error


def test_a_formula_that_would_never_end_ends(client: openai.OpenAI) -> None:
    grader = multi({"a": CHECK}, "9^9^9^9^9")
    run = client.fine_tuning.alpha.graders.run(
        grader=grader, model_sample="x", item={"answer": "x"}, timeout=5
    )
    assert run.metadata.errors.formula_parse_error


@pytest.mark.parametrize(
    "body",
    [
        {"model_sample": "x"},
        {"grader": CHECK},
        {"grader": CHECK, "model_sample": 1},
        {"grader": CHECK, "model_sample": "x", "item": "x"},
    ],
)
def test_a_body_without_what_it_needs_is_refused(api: Api, tenant: Tenant, body: Any) -> None:
    assert post(api, tenant, "run", body).status_code == 400


def test_numbers_beyond_every_bound_are_answered(api: Api, tenant: Tenant) -> None:
    body = b'{"grader": {"type": "string_check", "name": "n", "input": "a", "reference": "{{item.x}}", '
    body += b'"operation": "eq", "x": 1e999}, "model_sample": "a", "item": {"x": 1e999}}'
    with api.http(tenant) as http:
        for path in ("run", "validate"):
            reply = http.post(f"/v1/fine_tuning/alpha/graders/{path}", content=body)
            assert reply.status_code in (200, 400)
            assert reply.json()


def test_a_model_of_ours_judges(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(tenant)
    with judged_by(api, '{"result": 0.25}') as (front, backend), front.client(tenant) as client:
        run = client.fine_tuning.alpha.graders.run(
            grader=multi({"a": SCORE, "b": SCORE | {"model": model.name}}, "a + b"),
            model_sample="this",
        )
    assert run.reward == 0.5
    assert run.metadata.token_usage == 18
    assert set(run.api_model_grader_token_usage_per_model) == {"gpt-4o-mini", model.name}
    asked, _ = backend.requests[0]
    assert asked["messages"][0]["content"].startswith("Judge this")


def test_labels_pass_or_not(api: Api, tenant: Tenant) -> None:
    with judged_by(api, "good") as (front, _), front.client(tenant) as client:
        run = client.fine_tuning.alpha.graders.run(grader=cast("Any", LABEL), model_sample="this")
    assert run.reward == 1.0
    assert run.metadata.scores == {"label": "good"}
    assert run.metadata.sampled_model_name == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("content", "message", "flag"),
    [
        ("who knows", {}, "api_model_grader_parse_error"),
        (None, {"refusal": "No."}, "api_model_grader_refusal_error"),
        ("", {}, "unresponsive_reward_error"),
    ],
)
def test_an_answer_of_no_use_is_a_flag(
    api: Api, tenant: Tenant, content: str | None, message: Any, flag: str
) -> None:
    with judged_by(api, content, **message) as (front, _), front.client(tenant) as client:
        run = client.fine_tuning.alpha.graders.run(grader=SCORE, model_sample="this")
    assert run.reward == 0.0
    assert getattr(run.metadata.errors, flag)
    assert run.metadata.token_usage == 9


def test_a_model_that_nobody_serves_is_a_flag(client: openai.OpenAI) -> None:
    run = client.fine_tuning.alpha.graders.run(grader=SCORE, model_sample="this")
    assert run.metadata.errors.api_model_grader_server_error
    assert run.metadata.errors.api_model_grader_server_error_details


def test_another_projects_model_is_no_model(api: Api, tenant: Tenant) -> None:
    model = api.tuned_model(api.tenant())
    replies = [
        post(api, tenant, "validate", {"grader": SCORE | {"model": name}}).json()["error"]
        for name in (model.name, "nonsense")
    ]
    told = [{**error, "message": error["message"].split("`")[2]} for error in replies]
    assert told[0] == told[1]


def test_python_runs_in_a_sandbox_or_not_at_all(client: openai.OpenAI, has_sandbox: bool) -> None:
    graders = client.fine_tuning.alpha.graders
    if not has_sandbox:
        for grader in (PYTHON, multi({"code": PYTHON}, "code")):
            with pytest.raises(openai.BadRequestError) as caught:
                graders.run(grader=grader, model_sample="x", item={"n": 2})
            assert caught.value.code == "python_grader_unavailable"
            with pytest.raises(openai.BadRequestError):
                graders.validate(grader=grader)
        return
    assert graders.run(grader=PYTHON, model_sample="x", item={"n": 2}).reward == 0.5
    failed = graders.run(grader=PYTHON, model_sample="x", item={"n": 0})
    assert failed.reward == 0.0
    assert failed.metadata.errors.python_grader_runtime_error
    assert "ZeroDivisionError" in (failed.metadata.errors.python_grader_runtime_error_details or "")
    assert graders.validate(grader=PYTHON).grader is not None
    with pytest.raises(openai.BadRequestError) as caught:
        graders.validate(grader=multi({"code": PYTHON | {"source": "x = 1"}}, "code"))
    assert caught.value.param == "grader.graders.code.source"


def test_python_is_refused_where_there_is_no_sandbox(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_problem", ["bubblewrap (bwrap) is not installed"])
    for grader, param in (
        (PYTHON, "grader.type"),
        (multi({"code": PYTHON}, "code"), "grader.graders.code.type"),
    ):
        with pytest.raises(openai.BadRequestError, match="bubblewrap") as caught:
            client.fine_tuning.alpha.graders.run(grader=grader, model_sample="x")
        assert caught.value.param == param
        assert caught.value.code == "python_grader_unavailable"


def test_nobody_grades_without_a_key(api: Api) -> None:
    with api.http() as http:
        for path in ("run", "validate"):
            assert http.post(f"/v1/fine_tuning/alpha/graders/{path}", json={}).status_code == 401
