from __future__ import annotations

from typing import Any

import openai
import pytest

from storage.inference import conversations
from tests.api.gateway.fake_backend import FakeBackend

from .test_responses import MODEL, TEXT, messages


def test_responses_read_a_conversation_and_add_to_it(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    conversation = client.conversations.create(
        items=[{"role": "system", "content": "Be brief."}], metadata={"a": "b"}
    )
    assert client.conversations.retrieve(conversation.id) == conversation
    for word in ("One", "Two"):
        response = client.responses.create(
            model=MODEL, input=word, conversation=conversation.id, store=word == "Two"
        )
        assert response.conversation is not None
        assert response.conversation.id == conversation.id
    assert [(m["role"], m["content"]) for m in messages(backend)] == [
        ("system", "Be brief."),
        ("user", "One"),
        ("assistant", TEXT),
        ("user", "Two"),
    ]
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.role for item in items] == ["system", "user", "assistant", "user", "assistant"]  # type: ignore[union-attr]
    list(
        client.responses.create(
            model=MODEL, input="Three", conversation=conversation.id, stream=True
        )
    )
    assert len(list(client.conversations.items.list(conversation.id))) == 7


def test_items_come_and_go(client: openai.OpenAI) -> None:
    conversation = client.conversations.create()
    new: Any = [{"role": "user", "content": str(index), "id": f"msg_{index}"} for index in range(3)]
    added = client.conversations.items.create(conversation.id, items=new)
    assert [item.id for item in added.data] == ["msg_0", "msg_1", "msg_2"]
    assert [i.id for i in client.conversations.items.list(conversation.id)] == [
        "msg_2",
        "msg_1",
        "msg_0",
    ]
    client.conversations.items.delete("msg_1", conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve("msg_1", conversation_id=conversation.id)
    assert (
        client.conversations.items.retrieve("msg_2", conversation_id=conversation.id).id == "msg_2"
    )
    with pytest.raises(openai.BadRequestError, match="msg_0") as refused:
        client.conversations.items.create(conversation.id, items=new)
    assert refused.value.param == "items[0].id"
    # None of them was added.
    assert len(client.conversations.items.list(conversation.id).data) == 2


def test_a_conversation_is_renamed_and_deleted(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(metadata={"a": "b"})
    changed = client.conversations.update(conversation.id, metadata={"c": "d"})
    assert changed.metadata == {"c": "d"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="x", conversation=conversation.id)


def test_what_it_has_already_is_refused_before_it_costs_an_answer(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    given: Any = [{"role": "user", "content": text, "id": f"msg_{text}"} for text in "ab"]
    conversation = client.conversations.create(items=given[:1])
    for repeated, place in ((given[::-1], 1), (given[1:] * 2, 1)):
        with pytest.raises(openai.BadRequestError, match="in the conversation already") as refused:
            client.responses.create(model=MODEL, input=repeated, conversation=conversation.id)
        assert refused.value.param == f"input[{place}].id"
    assert backend.requests == []


@pytest.mark.parametrize(("limit", "most"), [("MAX_ITEMS", 3), ("MAX_BYTES", 400)])
def test_one_that_is_full_takes_no_more(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(conversations, limit, most)
    conversation = client.conversations.create(items=[{"role": "user", "content": "x"}] * 2)
    with pytest.raises(openai.BadRequestError, match=f"at most {most} "):
        client.responses.create(model=MODEL, input="x", conversation=conversation.id)
    assert len(client.conversations.items.list(conversation.id).data) == 2
