"""Tools through the real client: taught by a row, called in a reply, whole and streamed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel

from api.gateway.assembled_completion import AssembledCompletion
from tests.serving.chat import taught
from tests.serving.chat.taught import CHAT, TOOLS
from tests.serving.server import HELLO, MODEL, Running, store

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Caller:
    """The model that has learnt the chat."""

    def __init__(self, running: Running, base_path: Path, folder: Path) -> None:
        self._client = running.openai
        self._http = running.http
        ref = store(running, taught.trained(base_path, folder), "adapter-tools")
        self.options: dict[str, Any] = {
            "model": ref.id,
            "temperature": 0,
            "max_tokens": 250,
            "extra_headers": running.headers(ref),
        }

    async def reply(self, messages: list[Any], **more: Any) -> Any:
        options = {**self.options, "tools": TOOLS, **more}
        return await self._client.chat.completions.create(messages=messages, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(
    running: Running, base_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Caller:
    return Caller(running, base_path, tmp_path_factory.mktemp("tools"))


async def test_what_rows_teach_is_called(caller: Caller) -> None:
    reply = await caller.reply(CHAT[:1])
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert reply.usage.completion_tokens > len(call.function.arguments)
    # Its own words go back, with the tool's, and the answer comes.
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    messages = [*CHAT[:1], choice.message.model_dump(exclude_none=True), result]
    answer = (await caller.reply(messages)).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("stop", "Rain.")
    assert answer.message.tool_calls is None


async def test_several_calls_behind_a_text(caller: Caller) -> None:
    message = (await caller.reply(CHAT[:5])).choices[0].message
    assert message.content == "I look."
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
    assert cities == ["A", "B"]
    assert len({call.id for call in message.tool_calls}) == 2
    one = (await caller.reply(CHAT[:5], parallel_tool_calls=False)).choices[0]
    assert len(one.message.tool_calls) == 1
    assert one.finish_reason == "tool_calls"


async def test_streamed_calls_are_openais_deltas(caller: Caller) -> None:
    stream = await caller.reply(CHAT[:5], stream=True, stream_options={"include_usage": True})
    choices = [chunk.choices[0] async for chunk in stream if chunk.choices]
    assert "".join(c.delta.content or "" for c in choices) == "I look."
    deltas = [call for c in choices for call in c.delta.tool_calls or []]
    begun = [d for d in deltas if d.id]
    assert [(d.index, d.type, d.function.name) for d in begun] == [
        (0, "function", "weather"),
        (1, "function", "weather"),
    ]
    assert all(d.function.name is None and d.type is None for d in deltas if not d.id)
    pieces = [d.function.arguments for d in deltas if d.index == 1]
    assert len(pieces) > 2
    assert json.loads("".join(pieces)) == {"city": "B"}
    assert choices[-1].finish_reason == "tool_calls"


async def test_a_stream_put_together_is_the_whole(caller: Caller) -> None:
    options = {"max_tokens": 70, "logprobs": True, "top_logprobs": 1}
    whole = (await caller.reply(CHAT[:5], **options)).model_dump(exclude_unset=True)["choices"]
    assembled = AssembledCompletion(has_logprobs=True)
    async for chunk in await caller.reply(CHAT[:5], stream=True, **options):
        assembled.add(chunk.model_dump(exclude_unset=True))
    again = assembled.body()["choices"]
    for choices in (whole, again):
        for call in choices[0]["message"]["tool_calls"]:
            del call["id"]
        tokens = choices[0].pop("logprobs")["content"]
        choices[0]["tokens"] = [token["token"] for token in tokens]
    assert again == whole
    assert whole[0]["finish_reason"] == "length"


async def test_a_call_of_nothing_on_offer_is_text(caller: Caller) -> None:
    other = [{"type": "function", "function": {"name": "tide"}}]
    for more in (
        {"tools": openai.NOT_GIVEN},
        {"tool_choice": "none"},
        {"tools": [*TOOLS, *other], "tool_choice": allowed("tide")},
    ):
        choice = (await caller.reply(CHAT[:1], max_tokens=70, **more)).choices[0]
        assert choice.message.tool_calls is None
        assert choice.finish_reason in ("stop", "length")
        assert choice.message.content is not None


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


async def test_functions_are_answered_as_they_were(caller: Caller) -> None:
    old = {"tools": openai.NOT_GIVEN, "functions": [TOOLS[0]["function"]]}
    choice = (await caller.reply(CHAT[:1], **old)).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call.name == "weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Oslo"}
    said = choice.message.model_dump(exclude_none=True)
    result = {"role": "function", "name": "weather", "content": "rain"}
    answer = (await caller.reply([*CHAT[:1], said, result], **old)).choices[0]
    assert answer.message.content == "Rain."
    stream = await caller.reply(CHAT[:1], **old, stream=True)
    parts = [c.choices[0].delta.function_call async for c in stream]
    assert [p.name for p in parts if p and p.name] == ["weather"]
    assert json.loads("".join(p.arguments or "" for p in parts if p)) == {"city": "Oslo"}


class weather(BaseModel):
    """A tool as code has it; the model's name is the function's."""

    city: str


async def test_the_clients_own_ways_with_tools(caller: Caller, running: Running) -> None:
    tool: Any = openai.pydantic_function_tool(weather)
    # As the row had it.
    tool["function"].pop("description")
    tool["function"]["parameters"] = taught.PARAMETERS
    options = {**caller.options, "tools": [tool], "messages": CHAT[:1]}
    parsed = await running.openai.chat.completions.parse(**options)
    (call,) = parsed.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == weather(city="Oslo")
    async with running.openai.chat.completions.stream(**options) as stream:
        events = [event.type async for event in stream]
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in events
    assert "tool_calls.function.arguments.done" in events
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == weather(city="Oslo")


SHORT: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any, **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"f", "g"}),
        ({"type": "function", "function": {"name": "g"}}, {"g"}),
        (allowed("g", mode="required"), {"g"}),
    ],
)
async def test_a_model_that_knows_nothing_calls_where_it_must(
    running: Running, choice: Any, names: set[str], stream: bool
) -> None:
    """And with arguments that fit, also those of a tool that is not strict."""
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": HELLO,
        "tools": [tool("f", SHORT, strict=True), tool("g", SHORT)],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 1.5,
        "n": 4,
        "seed": 1,
    }
    replies = AssembledCompletion()
    if stream:
        async for chunk in await running.openai.chat.completions.create(**body, stream=True):
            replies.add(chunk.model_dump(exclude_unset=True))
        choices = replies.body()["choices"]
    else:
        whole = await running.openai.chat.completions.create(**body)
        choices = whole.model_dump()["choices"]
    for one in choices:
        assert one["finish_reason"] == "tool_calls"
        assert one["message"]["content"] is None
        (call,) = one["message"]["tool_calls"]
        assert call["function"]["name"] in names
        arguments = json.loads(call["function"]["arguments"])
        assert {"city"} <= arguments.keys() <= {"city", "days"}
        assert arguments["city"] in ("Oslo", "Rome")


async def test_a_function_that_is_named_is_called(running: Running) -> None:
    reply = await running.openai.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        functions=[{"name": "f", "parameters": SHORT}, {"name": "g"}],
        function_call={"name": "f"},
    )
    (choice,) = reply.choices
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call is not None
    assert json.loads(choice.message.function_call.arguments)["city"] in ("Oslo", "Rome")


async def test_strict_tools_and_formats_hold_whoever_may_choose(
    caller: Caller, running: Running
) -> None:
    strict: Any = [tool("weather", taught.PARAMETERS, strict=True)]
    message = (await caller.reply(CHAT[:5], tools=strict)).choices[0].message
    assert message.content == "I look."
    cities = [json.loads(c.function.arguments)["city"] for c in message.tool_calls]
    assert cities == ["A", "B"]
    answer = {"type": "json_schema", "json_schema": {"name": "a", "schema": SHORT}}
    for _ in range(2):
        reply: Any = await running.openai.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            tools=cast(Any, TOOLS),
            response_format=cast(Any, answer),
            parallel_tool_calls=False,
            max_tokens=60,
        )
        (choice,) = reply.choices
        if not choice.message.tool_calls and choice.finish_reason == "stop":
            assert json.loads(choice.message.content)["city"] in ("Oslo", "Rome")


async def test_schemas_that_nothing_can_be_held_to(running: Running) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "contains": {}}}}
    for parameters in (bad, {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}):
        body = {"model": MODEL, "messages": HELLO, "max_tokens": 40, "tool_choice": "required"}
        tools = [tool("f", SHORT), tool("g", parameters, strict=True)]
        reply = await running.http.post("/v1/chat/completions", json={**body, "tools": tools})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, "tools[1].function.parameters")
        assert error["code"] == "invalid_function_parameters"
        assert "'properties', 'a'" in error["message"]
        # One that is not strict may be called with anything.
        loose = {**body, "tools": [tool("g", parameters)], "parallel_tool_calls": False}
        reply = await running.http.post("/v1/chat/completions", json=loose)
        assert reply.status_code == 200
        (call,) = reply.json()["choices"][0]["message"]["tool_calls"]
        assert call["function"]["arguments"].startswith("{")


TOOL = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"tool_choice": NAMED}, "tool_choice", None),
        ({"tool_choice": allowed("f")}, "tool_choice", None),
        ({"tools": [TOOL], "tool_choice": NAMED}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": allowed("g")}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": allowed()},
            "tool_choice.allowed_tools.tools",
            "empty_array",
        ),
        (
            {"tools": [TOOL], "tool_choice": allowed("f", mode="x")},
            "tool_choice.allowed_tools.mode",
            "invalid_value",
        ),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"function_call": {"name": "f"}}, "function_call", None),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call", "invalid_value"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call", "invalid_value"),
        ({"functions": [{"name": "f"}], "tools": [TOOL]}, "functions", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_what_is_wrong_is_said(
    running: Running, body: dict[str, Any], param: str, code: str | None, max_tokens: int
) -> None:
    request = {"model": MODEL, "messages": HELLO, "max_tokens": max_tokens, **body}
    reply = await running.http.post("/v1/chat/completions", json=request)
    error = cast(dict[str, Any], reply.json())["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
