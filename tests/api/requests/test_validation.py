"""Bodies of hundreds of thousands of wrong things: the first is enough, and sizes come first."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from api.app import create_app
from api.gateway.stored_completions import Keeping
from api.requests import bodies
from api.requests.validation import hastened, validate
from foundation.settings import Settings
from grading import graders
from tests.api.stack import Api, Tenant

NUM = 50_000


def models() -> list[type[BaseModel]]:
    create_app(Settings())
    return [*bodies.documented(), Keeping]


def containers(schema: Any) -> Iterator[dict[str, Any]]:
    """The nodes of a core schema that hold entries which may be wrong."""
    if isinstance(schema, dict):
        entries = [
            schema.get(name, {}).get("type", "any")
            for name in ("items_schema", "values_schema")
            if isinstance(schema.get(name, {}), dict)
        ]
        if schema.get("type") in ("list", "dict", "set", "tuple") and set(entries) != {"any"}:
            yield schema
        for each in schema.values():
            yield from containers(each)
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from containers(each)


def test_every_list_and_object_of_every_body_ends_at_its_first_error() -> None:
    found = [
        node for model in models() for node in containers(hastened(model.__pydantic_core_schema__))
    ]
    assert len(found) > 10
    assert all(node["fail_fast"] for node in found)


@pytest.mark.parametrize("name", [name for name in dir(graders) if name.endswith("Grader")])
def test_every_list_of_a_grader_ends_at_its_first_error(name: str) -> None:
    model = getattr(graders, name)
    if isinstance(model, type) and issubclass(model, BaseModel):
        assert all(node.get("fail_fast") for node in containers(model.__pydantic_core_schema__))


FLOODS: list[Any] = [
    [1] * NUM,
    [None] * NUM,
    [{}] * NUM,
    [[]] * NUM,
    {str(number): number for number in range(NUM)},
    {str(number): {} for number in range(NUM)},
    "x" * NUM,
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda it: f"{type(it).__name__} {str(it)[:6]}")
def test_a_flood_is_few_errors_in_whichever_parameter(flood: Any) -> None:
    for model in models():
        for name in model.model_fields:
            # Missing ones, and one for each kind that a value could have been.
            errors = errors_of(model, {name: flood})
            assert len(errors) <= len(model.model_fields) + 20, (model, name)


@given(
    st.lists(st.one_of(st.text(max_size=3), st.integers()), max_size=8),
    st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=3), st.integers()), max_size=8),
)
def test_it_finds_what_pydantic_finds_first(names: list[Any], pairs: dict[str, Any]) -> None:
    class Body(BaseModel):
        names: Annotated[list[str], Field(min_length=1, max_length=4)]
        pairs: Annotated[dict[str, str], Field(max_length=4)]

    value = {"names": names, "pairs": pairs}
    expected, errors = errors_of(Body, value, Body.model_validate), errors_of(Body, value)
    assert bool(errors) == bool(expected)
    if not errors:
        assert validate(Body, value) == Body.model_validate(value)
    elif len(names) <= 4 and len(pairs) <= 4:
        assert errors[0] == expected[0]


def errors_of(
    model: type[BaseModel], value: object, by: Callable[[Any], object] | None = None
) -> list[Any]:
    try:
        _ = by(value) if by else validate(model, value)
    except ValidationError as error:
        return list(error.errors())
    return []


def test_what_is_too_large_is_not_looked_through() -> None:
    looked_at = []

    def look(value: Any) -> Any:
        looked_at.append(value)
        return value

    class Body(BaseModel):
        pairs: Annotated[dict[Annotated[str, BeforeValidator(look)], str], Field(max_length=4)]

    with pytest.raises(ValidationError, match="at most 4"):
        validate(Body, {"pairs": {str(number): "x" for number in range(1000)}})
    assert looked_at == []


JOB = {"model": "tiny-random", "training_file": "file-x"}
BATCH = {
    "input_file_id": "file-x",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}
WRONG = {str(number): 1 for number in range(NUM)}
TAGS = [{"type": "wandb", "wandb": {"project": "p", "tags": [1] * NUM}}]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("fine_tuning/jobs", {**JOB, "metadata": WRONG}, "metadata"),
        ("fine_tuning/jobs", {**JOB, "integrations": [1] * NUM}, "integrations"),
        ("fine_tuning/jobs", {**JOB, "integrations": TAGS}, "integrations.0.wandb.tags"),
        ("fine_tuning/jobs", {**JOB, "hyperparameters": [1] * NUM}, "hyperparameters"),
        ("fine-tunes", {**JOB, "classification_betas": ["x"] * NUM}, "classification_betas"),
        ("batches", {**BATCH, "metadata": WRONG}, "metadata"),
        ("uploads/upload_x/complete", {"part_ids": [1] * NUM}, "part_ids"),
        ("webhook_endpoints", {"name": "a", "url": "b", "event_types": [1] * NUM}, "event_types"),
        ("chat/completions/chatcmpl-x", {"metadata": WRONG}, "metadata"),
        (
            "chat/completions",
            {"model": "tiny-random", "messages": [], "store": True, "metadata": WRONG},
            "metadata",
        ),
        (
            "fine_tuning/alpha/graders/validate",
            {
                "grader": {
                    "type": "multi",
                    "name": "x",
                    "graders": [1] * NUM,
                    "calculate_output": "1",
                }
            },
            "grader.graders",
        ),
        (
            "fine_tuning/alpha/graders/validate",
            {"grader": {"type": "score_model", "name": "x", "model": "m", "input": [1] * NUM}},
            "grader.input.0",
        ),
        ("fine_tuning/jobs", {**JOB, "model": ["x" * NUM]}, "model"),
        ("chat/completions", {"model": "x" * NUM, "messages": []}, "model"),
        ("uploads", {"filename": "x" * NUM, "purpose": "x" * NUM}, "filename"),
        ("fine_tuning/jobs", {**JOB, "method": {"type": "x" * NUM}}, "method.type"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_the_answer_names_one_error_and_is_short(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    reply = http.post(f"/v1/{path}", content=orjson.dumps(body))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert len(reply.content) < 5000


def test_a_key_as_long_as_the_body_is_shown_in_part(http: httpx.Client) -> None:
    body = {**JOB, "metadata": {"k" * NUM: "v"}}
    reply = http.post("/v1/fine_tuning/jobs", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("metadata.kkk")
    assert len(reply.content) < 2000


@pytest.mark.parametrize("path", ["fine_tuning/jobs", "chat/completions"])
def test_what_is_nested_too_deeply_is_refused(http: httpx.Client, path: str) -> None:
    deep = b'{"model":"tiny-random","messages":' + b"[" * 300 + b"]" * 300 + b"}"
    reply = http.post(f"/v1/{path}", content=deep)
    assert reply.status_code == 400
    assert "nested too deeply" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "num_mib"), [("fine_tuning/jobs", 1), ("batches", 1), ("chat/completions", 8)]
)
def test_a_body_that_is_declared_too_large_is_refused_before_it_comes(
    api: Api, tenant: Tenant, path: str, num_mib: int
) -> None:
    split = urlsplit(api.url)
    head = (
        f"POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {tenant.key}\r\n"
        f"content-length: {num_mib * 1024**2 + 1}\r\n\r\n"
    )
    assert split.hostname is not None
    with socket.create_connection((split.hostname, split.port or 0), timeout=10) as opened:
        opened.sendall(head.encode())
        reply = opened.recv(65536)
    assert reply.startswith(b"HTTP/1.1 413")
    assert f"may have {num_mib * 1024**2} bytes".encode() in reply
