"""What may be asked of a completion: what is taken, what changes nothing, what is refused and how."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.serving.server import HELLO, MODEL, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_harmless_and_unknown_fields_are_accepted(running: Running) -> None:
    completion = await running.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=1,
        user="somebody",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        seed=-9007199254740991,
        response_format={"type": "text"},
        tool_choice="none",
        extra_body={"something_new": {"nested": 1}, "tools": []},
    )
    assert completion.choices


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"foo": "bar"}, "strict": True}}

# All that openai's own test suite asks for at once.
EVERYTHING: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"},
    "frequency_penalty": -2,
    "function_call": "none",
    "functions": [{"name": "name", "description": "d", "parameters": {"foo": "bar"}}],
    "logit_bias": {"foo": 0},
    "logprobs": True,
    "max_completion_tokens": 0,
    "max_tokens": 0,
    "metadata": {"foo": "string"},
    "modalities": ["text"],
    "moderation": {"model": "model", "policy": {"input": {"mode": "score"}}},
    "n": 1,
    "parallel_tool_calls": True,
    "prediction": {"content": "string", "type": "content"},
    "presence_penalty": -2,
    "prompt_cache_key": "prompt-cache-key-1234",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "in_memory",
    "reasoning_effort": "none",
    "response_format": {"type": "text"},
    "safety_identifier": "safety-identifier-1234",
    "seed": -9007199254740991,
    "service_tier": "auto",
    "stop": "\n",
    "store": True,
    "stream_options": {"include_obfuscation": True, "include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [TOOL],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low", "user_location": {"type": "approximate"}},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_everything_may_be_asked_of_a_reply_without_tokens(
    running: Running, stream: bool
) -> None:
    body = {"model": MODEL, "messages": HELLO, **EVERYTHING, "stream": stream}
    reply = await running.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200
    if not stream:
        (choice,) = reply.json()["choices"]
        assert choice["message"]["content"] == ""
        assert choice["finish_reason"] == "length"
        assert choice["logprobs"] == {"content": [], "refusal": None}


@pytest.mark.parametrize(
    ("param", "value", "more"),
    [
        ("modalities", ["text", "audio"], {"audio": {"voice": "alloy", "format": "mp3"}}),
        ("web_search_options", {"search_context_size": "low"}, {}),
        ("moderation", {"model": "x"}, {}),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    running: Running, param: str, value: Any, more: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await running.openai.chat.completions.create(
            model=MODEL, messages=HELLO, extra_body={param: value, **more}
        )
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [TOOL], "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"prediction": {"type": "content", "content": "x"}},
        {"audio": {"voice": "alloy", "format": "mp3"}, "modalities": ["text"]},
        {"reasoning_effort": "high", "verbosity": "low", "service_tier": "flex"},
        {"logit_bias": {"foo": 0, "5": 1}},
        {"stop": None, "n": None, "temperature": 1, "stream": None, "stream_options": None},
    ],
)
async def test_what_changes_no_reply_is_accepted(running: Running, body: dict[str, Any]) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1, **body}
    reply = await running.http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200


CALLING = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ],
}
CALLING_AS_BEFORE = {
    "role": "assistant",
    "content": None,
    "function_call": {"name": "f", "arguments": "{}"},
}
SPOKEN = {"role": "assistant", "content": None, "audio": {"id": "audio_1"}}


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
async def test_a_message_without_content_is_refused(running: Running, role: str) -> None:
    for fields, told, code in (
        (
            {"content": None},
            "expected one of a string or array of objects, but got null",
            "invalid_type",
        ),
        ({}, "Missing required parameter: 'messages[1].content'.", "missing_required_parameter"),
    ):
        messages = [*HELLO, {"role": role, **fields}]
        reply = await running.http.post(
            "/v1/chat/completions", json={"model": MODEL, "messages": messages, "max_tokens": 1}
        )
        error = reply.json()["error"]
        assert (reply.status_code, error["param"], error["code"]) == (
            400,
            "messages[1].content",
            code,
        )
        assert told in error["message"]


async def test_replies_come_back_as_clients_dump_them(running: Running) -> None:
    async def ask(messages: list[Any]) -> Any:
        return await running.openai.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=4
        )

    first = await ask(HELLO)
    message = first.choices[0].message
    dumped = {**message.model_dump(), "audio": None, "annotations": [], "refusal": None}
    result = {"role": "tool", "tool_call_id": "call_1", "name": "f", "content": "5"}
    second = await ask([*HELLO, dumped, result])
    plain = [*HELLO, {"role": "assistant", "content": message.content}]
    assert second.usage.prompt_tokens == len(
        running.served.template.render(
            [*plain, {"role": "tool", "content": "5"}], add_generation_prompt=True
        )
    )
    for calling in (CALLING, CALLING_AS_BEFORE):
        assert (await ask([*HELLO, calling, result])).usage.prompt_tokens == len(
            running.served.template.render([*HELLO, CALLING, result], add_generation_prompt=True)
        )
    refused = {"role": "assistant", "content": None, "refusal": message.content}
    assert (await ask([*HELLO, refused])).usage.prompt_tokens == len(
        running.served.template.render(plain, add_generation_prompt=True)
    )


CHAT: dict[str, Any] = {"messages": HELLO}
TEXT: dict[str, Any] = {"prompt": "x"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "empty_array"),
        ({}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role", None),
        ({"messages": [*HELLO, SPOKEN]}, "messages[1].audio", None),
        (CHAT | {"n": 0}, "n", "integer_below_min_value"),
        (CHAT | {"n": 129}, "n", "integer_above_max_value"),
        (CHAT | {"n": "1"}, "n", "invalid_type"),
        (CHAT | {"n": 1.5}, "n", "invalid_type"),
        (CHAT | {"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        (CHAT | {"temperature": -1}, "temperature", "integer_below_min_value"),
        (CHAT | {"top_p": "x"}, "top_p", "invalid_type"),
        (CHAT | {"seed": 2**63}, "seed", "integer_above_max_value"),
        (CHAT | {"stream": "true"}, "stream", "invalid_type"),
        (CHAT | {"stream_options": 7}, "stream_options", "invalid_type"),
        (CHAT | {"user": 7}, "user", "invalid_type"),
        (CHAT | {"stop": 7}, "stop", "invalid_value"),
        (CHAT | {"stop": list("abcde")}, "stop", "array_above_max_length"),
        (CHAT | {"top_logprobs": 2}, "top_logprobs", None),
        (CHAT | {"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        (CHAT | {"logit_bias": {"259": 1}}, "logit_bias", "invalid_value"),
        (CHAT | {"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value"),
        (CHAT | {"logit_bias": {"1": 101}}, "logit_bias.1", "integer_above_max_value"),
        (CHAT | {"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        (CHAT | {"max_tokens": 5000}, "messages", "context_length_exceeded"),
        (CHAT | {"tool_choice": "required"}, "tool_choice", None),
        (CHAT | {"tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        (CHAT | {"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name", "missing_required_parameter"),
        (CHAT | {"tools": [TOOL] * 129}, "tools", "array_above_max_length"),
        (CHAT | {"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (CHAT | {"safety_identifier": "x" * 65}, "safety_identifier", "string_above_max_length"),
        (CHAT | {"verbosity": "loud"}, "verbosity", "invalid_value"),
        ({"prompt": "x" * 3000}, "messages", "context_length_exceeded"),
        ({"prompt": []}, "prompt", None),
        ({"prompt": [1, 5000]}, "prompt", None),
        ({"prompt": ["x", 1]}, "prompt", "invalid_value"),
        (TEXT | {"best_of": 2, "n": 3}, "best_of", "invalid_value"),
        (TEXT | {"best_of": 3, "stream": True}, "best_of", "invalid_value"),
        (TEXT | {"best_of": 21}, "best_of", "integer_above_max_value"),
        (TEXT | {"logprobs": 6}, "logprobs", "integer_above_max_value"),
        (TEXT | {"echo": 1}, "echo", "invalid_type"),
    ],
)  # fmt: skip
async def test_bad_request_names_the_field(
    running: Running, body: dict[str, Any], param: str, code: str | None
) -> None:
    path = "completions" if "prompt" in body else "chat/completions"
    reply = await running.http.post(f"/v1/{path}", json={"model": MODEL, **body})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
