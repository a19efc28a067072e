"""Rows of other tools as chat rows: what each key becomes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dataset.formats.row_format import Row

_ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("observation", "tool", "function_response"), "tool"),
    "function_call": "function_call",
}


class Unmapped(ValueError):
    """The row has no counterpart; `str()` says why."""


@dataclass(frozen=True)
class RowForm:
    name: str
    keys: frozenset[str]
    """That rows of the form have together."""
    known: frozenset[str]
    """Those that are mapped; others are left out, and told."""
    convert: Callable[[Row], Row]
    """Raises Unmapped."""
    is_own: bool = False
    """Jobs learn from the form as it is."""


def alpaca(row: Row) -> Row:
    messages = _system(row)
    history = row.get("history")
    if history:
        if not isinstance(history, list):
            raise Unmapped('its "history" is no list of pairs')
        for pair in history:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Unmapped('its "history" is no list of pairs of question and answer')
            messages += _turn(_text(pair[0], "history"), _text(pair[1], "history"))
    instruction = _text(row["instruction"], "instruction")
    asked = _text(row.get("input") or "", "input")
    prompt = "\n\n".join(text for text in (instruction, asked) if text)
    return _chat([*messages, *_turn(prompt, _text(row["output"], "output"))])


def sharegpt(row: Row) -> Row:
    conversation = row["conversations"]
    if not isinstance(conversation, list) or not conversation:
        raise Unmapped('its "conversations" is no list of messages')
    messages = _system(row)
    call_ids: list[str] = []
    for place, said in enumerate(conversation, start=1):
        if not isinstance(said, dict):
            raise Unmapped(f"message {place} is no object")
        speaker, text = said.get("from", said.get("role")), said.get("value", said.get("content"))
        role = _ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise Unmapped(f"message {place} is from {speaker!r}, which is no role that is known")
        if not isinstance(text, str):
            raise Unmapped(f"message {place} has no text")
        if role == "function_call":
            call_ids = [f"call_{place}"]
            messages.append(_calling(text, call_ids[0], place))
        elif role == "tool":
            if not call_ids:
                raise Unmapped(f"message {place} is the result of a call that is not there")
            messages.append({"role": "tool", "tool_call_id": call_ids.pop(), "content": text})
        else:
            messages.append({"role": role, "content": text})
    if not any(message["role"] == "assistant" for message in messages):
        raise Unmapped("the assistant says nothing in it")
    tools = row.get("tools")
    return _chat(messages, _tools(tools) if tools else None)


def pair_of(prompt_key: str, answer_key: str) -> Callable[[Row], Row]:
    def convert(row: Row) -> Row:
        prompt, answer = _text(row[prompt_key], prompt_key), _text(row[answer_key], answer_key)
        return _chat([*_system(row), *_turn(prompt, answer)])

    return convert


def preference(row: Row) -> Row:
    """TRL's: texts, or lists of messages of which the last one differs."""
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        asked = [{"role": "user", "content": _text(prompt, "prompt")}]
        return _preference(
            [*_system(row), *asked],
            *([{"role": "assistant", "content": t}] for t in (chosen, rejected)),
        )
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise Unmapped('its "chosen" and "rejected" are neither texts nor lists of messages')
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    before = prompt if isinstance(prompt, list) else _system(row)
    if isinstance(prompt, str) and not shared:
        before = [*before, {"role": "user", "content": prompt}]
    asked = [*before, *chosen[:shared]]
    if not asked or shared == min(len(chosen), len(rejected)):
        raise Unmapped('it is not to be seen where "chosen" and "rejected" begin to be answers')
    return _preference(asked, chosen[shared:], rejected[shared:])


def _preference(asked: list[Any], better: list[Any], worse: list[Any]) -> Row:
    return {"input": {"messages": asked}, "preferred_output": better, "non_preferred_output": worse}


def _form(
    name: str, keys: str, known: str, convert: Callable[[Row], Row], *, is_own: bool = False
) -> RowForm:
    return RowForm(
        name, frozenset(keys.split()), frozenset((keys + " " + known).split()), convert, is_own
    )


FORMS = (
    _form("Alpaca", "instruction output", "input history system", alpaca),
    _form("ShareGPT", "conversations", "system tools", sharegpt),
    _form("TRL preferences", "chosen rejected", "prompt system", preference),
    _form(
        "prompt and completion",
        "prompt completion",
        "system",
        pair_of("prompt", "completion"),
        is_own=True,
    ),
    _form("prompt and response", "prompt response", "system", pair_of("prompt", "response")),
    _form("question and answer", "question answer", "system", pair_of("question", "answer")),
    _form("input and output", "input output", "system", pair_of("input", "output")),
)


def form_of(row: Row) -> RowForm | None:
    """The form of another tool that a file has whose first row this is."""
    if row.keys() & {"messages", "preferred_output", "preferred_completion"}:
        return None
    return next((form for form in FORMS if form.keys <= row.keys()), None)


def _system(row: Row) -> list[Any]:
    system = row.get("system")
    return [{"role": "system", "content": _text(system, "system")}] if system else []


def _turn(prompt: str, answer: str) -> list[Any]:
    if not prompt.strip():
        raise Unmapped("its prompt is empty")
    if not answer.strip():
        raise Unmapped("its answer is empty")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _chat(messages: list[Any], tools: list[Any] | None = None) -> Row:
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise Unmapped(f'its "{key}" is no text')
    return value


def _calling(text: str, call_id: str, place: int) -> Mapping[str, Any]:
    try:
        call = json.loads(text)
        name, arguments = call["name"], call.get("arguments") or {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unmapped(
            f'message {place} is no call of a function: {{"name": ..., "arguments": ...}}'
        ) from None
    if not isinstance(name, str):
        raise Unmapped(f"message {place} calls a function without a name")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def _tools(tools: Any) -> list[Any]:
    try:
        parsed = json.loads(tools) if isinstance(tools, str) else tools
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list) or not all(isinstance(tool, dict) for tool in parsed):
        raise Unmapped('its "tools" are no list')
    return [
        tool if "function" in tool else {"type": "function", "function": tool} for tool in parsed
    ]
