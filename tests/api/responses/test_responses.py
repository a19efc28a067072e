from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from storage.inference import responses
from tests.api.gateway.fake_backend import FakeBackend, refusal
from tests.api.stack import Api, Tenant

MODEL = "gpt-4o-mini"
TEXT = "Hello from fake with ünicode"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    "strict": True,
}
CALL: list[dict[str, Any]] = [
    {"role": "assistant", "reasoning_content": "Think"},
    {"reasoning_content": " hard."},
    {"content": "Let me see."},
    {
        "tool_calls": [
            {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": ""}}
        ]
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"place":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Ulm"}'}}]},
    {
        "tool_calls": [
            {"index": 1, "id": "call_2", "function": {"name": "weather", "arguments": "{}"}}
        ]
    },
]


def messages(backend: FakeBackend) -> list[dict[str, Any]]:
    """What the inference server was last asked."""
    asked: list[dict[str, Any]] = backend.requests[-1][0]["messages"]
    return asked


def test_a_text_is_answered_and_kept(client: openai.OpenAI, backend: FakeBackend) -> None:
    response = client.responses.create(
        model=MODEL,
        input="Hello?",
        instructions="Be brief.",
        max_output_tokens=7,
        temperature=0.5,
        metadata={"run": "7"},
    )
    assert response.output_text == TEXT
    assert (response.status, response.model, response.metadata) == (
        "completed",
        MODEL,
        {"run": "7"},
    )
    assert response.usage is not None
    assert (response.usage.output_tokens, response.usage.total_tokens) == (5, 8)
    assert messages(backend) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    body = backend.requests[-1][0]
    assert (body["max_completion_tokens"], body["temperature"]) == (7, 0.5)
    assert not {"store", "metadata", "input"} & set(body)
    assert client.responses.retrieve(response.id) == response
    (item,) = client.responses.input_items.list(response.id)
    assert item.to_dict()["content"] == [{"type": "input_text", "text": "Hello?"}]
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_nothing_is_kept_against_the_users_will(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="Hello?", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_goes_on_from_another(client: openai.OpenAI, backend: FakeBackend) -> None:
    first = client.responses.create(model=MODEL, input="One", instructions="Not passed on.")
    second = client.responses.create(model=MODEL, input="Two", previous_response_id=first.id)
    third = client.responses.create(model=MODEL, input="Three", previous_response_id=second.id)
    assert [(m["role"], m["content"]) for m in messages(backend)] == [
        ("user", "One"),
        ("assistant", TEXT),
        ("user", "Two"),
        ("assistant", TEXT),
        ("user", "Three"),
    ]
    items = client.responses.input_items.list(third.id, order="asc", limit=3)
    assert len(items.data) == 3
    assert len(list(items)) == 5
    client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match=first.id) as refused:
        client.responses.create(model=MODEL, input="Four", previous_response_id=third.id)
    assert refused.value.param == "previous_response_id"


def test_what_goes_on_from_much_is_refused_before_it_is_read(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.responses.create(model=MODEL, input="x" * 2000)
    monkeypatch.setattr(responses, "MAX_CHAIN_BYTES", 4000)
    second = client.responses.create(model=MODEL, input="y", previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError, match="at most 4000 can be gone on from") as refused:
        client.responses.create(model=MODEL, input="z", previous_response_id=second.id)
    assert refused.value.param == "previous_response_id"


def test_calls_and_thoughts_are_items_and_go_back_as_one_message(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    backend.deltas, backend.finish_reason = CALL, "tool_calls"
    response = client.responses.create(
        model=MODEL,
        input="Weather?",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
    )
    sent = backend.requests[-1][0]
    assert sent["tools"] == [
        {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
    ]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert [item.type for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(c.call_id, c.name, c.arguments) for c in calls] == [
        ("call_1", "weather", '{"place":"Ulm"}'),
        ("call_2", "weather", "{}"),
    ]
    backend.deltas, backend.finish_reason = None, "stop"
    outputs: Any = [
        {"type": "function_call_output", "call_id": "call_1", "output": "Rain"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "Sun"}],
        },
    ]
    by_id = client.responses.create(
        model=MODEL, input=outputs, previous_response_id=response.id, tools=[WEATHER]
    )
    asked = messages(backend)
    assert [m["role"] for m in asked] == ["user", "assistant", "tool", "tool"]
    assert asked[1]["content"] == "Let me see."
    assert asked[1]["reasoning_content"] == "Think hard."
    assert [call["id"] for call in asked[1]["tool_calls"]] == ["call_1", "call_2"]
    assert [m["content"] for m in asked[2:]] == ["Rain", "Sun"]
    # The same by hand: what a client has from one response, it may send with the next.
    given: Any = [{"role": "user", "content": "Weather?"}, *response.output, *outputs]
    client.responses.create(model=MODEL, input=given, tools=[WEATHER], store=False)
    assert messages(backend) == asked
    assert by_id.output_text == TEXT


def test_events_come_in_openais_order_and_add_up(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    backend.deltas, backend.finish_reason = CALL, "tool_calls"
    events = list(
        client.responses.create(model=MODEL, input="Weather?", tools=[WEATHER], stream=True)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        *(
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.delta",
        ),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    assert client.responses.retrieve(last.response.id) == last.response
    with client.responses.stream(model=MODEL, input="Weather?", tools=[WEATHER]) as stream:
        whole = stream.get_final_response()
    assert [item.type for item in whole.output] == [item.type for item in last.response.output]
    again = list(client.responses.retrieve(last.response.id, stream=True))
    assert [event.type for event in again][-1] == "response.completed"
    (seen,) = list(client.responses.retrieve(last.response.id, stream=True, starting_after=1000))
    assert seen.type == "response.completed"


def test_a_reply_that_is_cut_is_incomplete(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.finish_reason = "length"
    response = client.responses.create(model=MODEL, input="Hello?")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]


def test_a_stream_that_breaks_ends_as_failed_and_is_not_kept(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    backend.breaks_after = 2
    events = list(client.responses.create(model=MODEL, input="Hello?", stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "broke off" in last.response.error.message
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(last.response.id)


class Place(BaseModel):
    city: str


def test_a_schema_goes_on_as_a_chats(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.deltas = [{"content": '{"city": '}, {"content": '"Ulm"}'}]
    response = client.responses.parse(model=MODEL, input="Where?", text_format=Place)
    assert response.output_parsed == Place(city="Ulm")
    asked = backend.requests[-1][0]["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["name"] == "Place"
    assert asked["json_schema"]["strict"] is True
    assert asked["json_schema"]["schema"]["required"] == ["city"]


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": "x"}, "model", "Missing required"),
        ({"model": MODEL}, "input", "Missing required"),
        ({"model": MODEL, "input": 7}, "input", "Invalid type"),
        ({"model": MODEL, "input": [7]}, "input[0]", "Invalid type"),
        ({"model": MODEL, "input": [{"role": "king", "content": "x"}]}, "input[0].role", "king"),
        (
            {"model": MODEL, "input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
            "input_image",
        ),
        (
            {"model": MODEL, "input": [{"type": "web_search_call"}]},
            "input[0].type",
            "web_search_call",
        ),
        (
            {
                "model": MODEL,
                "input": [{"type": "function_call_output", "call_id": "c", "output": ""}],
            },
            "input",
            "No tool call found",
        ),
        (
            {
                "model": MODEL,
                "input": [
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
                ],
            },
            "input",
            "No tool output found",
        ),
        (
            {"model": MODEL, "input": "x", "tools": [{"type": "web_search"}]},
            "tools[0].type",
            "web_search",
        ),
        (
            {"model": MODEL, "input": "x", "tool_choice": {"type": "mcp"}, "tools": [WEATHER]},
            "tool_choice.type",
            "mcp",
        ),
        ({"model": MODEL, "input": "x", "include": ["secrets"]}, "include[0]", "secrets"),
        ({"model": MODEL, "input": "x", "prompt": {"id": "p"}}, "prompt", "keeps no prompts"),
        (
            {"model": MODEL, "input": "x", "moderation": {"model": "m"}},
            "moderation",
            "not supported",
        ),
        ({"model": MODEL, "input": "x", "background": True, "store": False}, "store", "stored"),
        (
            {"model": MODEL, "input": "x", "previous_response_id": "r", "conversation": "c"},
            "conversation",
            "Mutually exclusive",
        ),
        (
            {"model": MODEL, "input": "x", "previous_response_id": "resp_none"},
            "previous_response_id",
            "resp_none",
        ),
        ({"model": MODEL, "input": "x", "conversation": ""}, "conversation.id", "too short"),
        ({"model": MODEL, "input": "x", "conversation": 7}, "conversation", "Invalid type"),
        ({"model": MODEL, "input": "x", "conversation": {"id": 7}}, "conversation.id", "a string"),
        ({"model": MODEL, "input": "x" * (2**21 + 1)}, "store", "too large"),
        ({"model": MODEL, "input": "x", "user": "x" * 2**21}, "store", "too large"),
        ({"model": MODEL, "input": "x", "max_output_tokens": 0}, "max_output_tokens", "0"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    front: Api, tenant: Tenant, body: dict[str, Any], param: str, said: str
) -> None:
    with front.http(tenant) as http:
        reply = http.post("/v1/responses", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param
    assert said in error["message"]


def test_an_inference_servers_refusal_names_the_responses_parameter(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    backend.answer = refusal("Invalid 'messages': too many.", "messages[3].content", "too_many")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=MODEL, input="Hello?")
    assert (refused.value.param, refused.value.code) == ("input", "too_many")


def test_what_was_said_first_is_left_out_until_the_rest_fits(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    backend.max_messages = 3
    said: Any = [{"role": "user", "content": str(index)} for index in range(9)]
    options: Any = {"model": MODEL, "input": said, "instructions": "Stay."}
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**options)
    client.responses.create(**options, truncation="auto")
    assert [m["content"] for m in messages(backend)] == ["Stay.", "7", "8"]


def test_input_tokens_are_counted_without_an_answer(
    client: openai.OpenAI, backend: FakeBackend
) -> None:
    counted = client.responses.input_tokens.count(
        model=MODEL, input="Hello?", instructions="Brief."
    )
    assert counted.input_tokens == 3
    assert backend.requests[-1][0]["max_completion_tokens"] == 0
    assert [m["content"] for m in messages(backend)] == ["Brief.", "Hello?"]
