from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from storage.inference import stored_completions
from storage.schema import OtherSchema
from tests.api.stack import Api, Tenant

from .fake_backend import FakeBackend
from .test_inference import MESSAGES, ask, gateway


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture(scope="module")
def front(api: Api, backend: FakeBackend) -> Iterator[Api]:
    with gateway(api, backend) as front:
        yield front


@pytest.fixture
def client(front: Api, tenant: Tenant) -> Iterator[openai.OpenAI]:
    with front.client(tenant) as client:
        yield client


def put(api: Api, tenant: Tenant, completion_id: str, **values: Any) -> None:
    """Store a completion directly."""
    completion = {"id": completion_id, "created": 1, "model": "m", "choices": []}
    messages = values.pop("messages", MESSAGES)
    metadata = values.pop("metadata", None)
    with api.sessions.begin() as session:
        stored_completions.create(
            session,
            tenant.project_id,
            completion={**completion, **values},
            messages=messages,
            metadata=metadata,
        )


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_kept_with_its_request(
    client: openai.OpenAI, backend: FakeBackend, stream: bool
) -> None:
    options: Any = {"store": True, "metadata": {"run": "7"}, "temperature": 0.5, "user": "u"}
    shape = {"luthier": {"grammar": {"type": "regex", "definition": "a"}}}
    options["extra_body"] = shape
    reply = ask(client, "gpt-4o-mini", stream=stream, **options)
    text = (
        "".join(chunk.choices[0].delta.content for chunk in reply)
        if stream
        else reply.choices[0].message.content
    )
    (kept,) = client.chat.completions.list()
    assert kept == client.chat.completions.retrieve(kept.id)
    assert kept.model == "gpt-4o-mini"
    assert kept.choices[0].message.content == text
    assert kept.choices[0].finish_reason == "stop"
    assert kept.usage is not None
    assert kept.usage.completion_tokens == 5
    extra = kept.to_dict()
    assert (extra["metadata"], extra["temperature"], extra["input_user"]) == (
        {"run": "7"},
        0.5,
        "u",
    )
    assert extra["luthier"] == shape["luthier"] == backend.requests[-1][0]["luthier"]
    assert str(extra["request_id"]).startswith("req_")
    (message,) = client.chat.completions.messages.list(kept.id)
    assert message.id == f"{kept.id}-0"
    assert message.content == "Hello?"
    # Both are the gateway's business alone.
    assert not {"store", "metadata"} & set(backend.requests[-1][0])


def test_nothing_is_kept_unless_it_is_asked_for(client: openai.OpenAI) -> None:
    ask(client)
    ask(client, store=False, metadata={"a": "b"})
    list(ask(client, stream=True))
    assert client.chat.completions.list().data == []


def test_a_stream_that_breaks_is_not_kept(api: Api, tenant: Tenant) -> None:
    with gateway(api, FakeBackend(breaks_after=2)) as front, front.client(tenant) as client:
        with pytest.raises(openai.APIError):
            list(ask(client, stream=True, store=True))
        assert client.chat.completions.list().data == []


def test_a_stream_that_cannot_be_kept_ends_with_an_error_event(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(*_: Any, **__: Any) -> None:
        raise OtherSchema("9999")

    monkeypatch.setattr("api.gateway.stored_completions.keep", keep)
    stream = ask(client, stream=True, store=True)
    assert next(stream).choices
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert "server had an error" in caught.value.message


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"store": "yes"}, "store", "invalid_type"),
        ({"store": True, "metadata": {"k": 7}}, "metadata.k", "invalid_type"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        (
            {"store": True, "metadata": {str(n): "" for n in range(17)}},
            "metadata",
            "object_above_max_properties",
        ),
        (
            {"store": True, "messages": [{"role": "user", "content": "x" * 3_000_000}]},
            "store",
            None,
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_generated(
    client: openai.OpenAI, backend: FakeBackend, options: Any, param: str, code: str | None
) -> None:
    num_before = len(backend.requests)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body=options)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert len(backend.requests) == num_before


def test_lists_page_and_filter(api: Api, tenant: Tenant, client: openai.OpenAI) -> None:
    for n in range(5):
        metadata = {"parity": str(n % 2), "all": "x"}
        put(api, tenant, f"c{n}", model=f"m{n % 2}", metadata=metadata)

    def ids(**query: Any) -> list[str]:
        return [kept.id for kept in client.chat.completions.list(**query)]

    assert ids() == ["c0", "c1", "c2", "c3", "c4"]
    assert ids(limit=2) == ids()
    assert ids(order="desc", limit=3) == ["c4", "c3", "c2", "c1", "c0"]
    assert ids(model="m1") == ["c1", "c3"]
    assert ids(metadata={"parity": "0", "all": "x"}, limit=2) == ["c0", "c2", "c4"]
    assert ids(metadata={"parity": "2"}) == ids(after="unknown", limit=0) == []
    page = client.chat.completions.list(limit=2)
    assert page.has_more
    assert (page.model_extra or {})["last_id"] == "c1"


def test_metadata_is_replaced_and_a_deleted_completion_is_gone(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    put(api, tenant, "c1", metadata={"a": "1"})
    updated = client.chat.completions.update("c1", metadata={"b": "2"})
    assert updated.to_dict()["metadata"] == {"b": "2"}
    deleted = client.chat.completions.delete("c1")
    assert (deleted.id, deleted.object, deleted.deleted) == ("c1", "chat.completion.deleted", True)
    for act in (
        lambda: client.chat.completions.retrieve("c1"),
        lambda: client.chat.completions.update("c1", metadata=None),
        lambda: client.chat.completions.delete("c1"),
        lambda: client.chat.completions.messages.list("c1"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            act()
        assert caught.value.body == {
            "message": "Completion c1 not found",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }


def test_messages_come_in_pages_as_they_were_sent(
    api: Api, tenant: Tenant, client: openai.OpenAI
) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    put(
        api,
        tenant,
        "c1",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts, "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": []},
        ],
    )

    def ids(**query: Any) -> list[str]:
        return [message.id for message in client.chat.completions.messages.list("c1", **query)]

    assert ids() == ids(limit=1) == ["c1-0", "c1-1", "c1-2"]
    assert ids(order="desc", limit=2) == ["c1-2", "c1-1", "c1-0"]
    assert ids(after="c1-1") == ["c1-2"]
    assert ids(after="unknown") == ids(limit=0) == []
    system, user, assistant = client.chat.completions.messages.list("c1").data
    assert system.content_parts is None
    assert user.content == "one two"
    assert [part.to_dict() for part in user.content_parts or ()] == parts
    assert user.to_dict()["name"] == "ann"
    assert assistant.content is None
