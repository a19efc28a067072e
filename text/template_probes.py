"""What a chat template shows of what it is given, found by looking: small conversations are rendered and
their words searched for. A template's source mentions much that it never shows, and shows much that it
never mentions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from .messages import InvalidMessages, Message

# Words that no template has of its own. They are of the kind that every template accepts: a name for a
# function, a word for a text, nine characters for an id.
NAME, KEY, VALUE, NOTE = "qzname", "qzkey", "qzvalue", "qznote"
OTHER_NAME, OTHER_KEY = "qzother", "qzmore"
CALL_ID = "qz1234567"

FormOfArguments = Literal["object", "text"]

Render = Callable[[list[Message], list[dict[str, Any]] | None], str]
"""The text of some messages and tools. Raises `InvalidMessages`."""

USER: Message = {"role": "user", "content": "hello"}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": NOTE,
        "parameters": {
            "type": "object",
            "properties": {KEY: {"type": "string", "description": NOTE}},
            "required": [KEY],
        },
    },
}
CALLING: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": CALL_ID,
            "type": "function",
            "function": {"name": NAME, "arguments": {KEY: VALUE}},
        }
    ],
}
CALLING_WITH_TWO: Message = {
    **CALLING,
    "tool_calls": [
        {
            **CALLING["tool_calls"][0],
            "function": {"name": NAME, "arguments": {KEY: VALUE, OTHER_KEY: VALUE}},
        }
    ],
}
OTHER_TOOL = {
    "type": "function",
    "function": {**TOOL["function"], "name": OTHER_NAME},
}
SAYING: Message = {"role": "assistant", "content": NOTE}
RESULT: Message = {"role": "tool", "content": NOTE, "name": NAME, "tool_call_id": CALL_ID}


def shows_tools(render: Render) -> bool:
    """Whether the tools on offer reach the model: name, purpose and parameters."""
    return _shows(render, [USER], NAME, NOTE, KEY, tools=[TOOL])


def form_of_calls(render: Render) -> FormOfArguments | None:
    """As what the arguments of a turn's calls reach the model, as the last thing said and with their results behind.

    An object suits most templates. Some put strings together, and refuse an object or write it as Python does.
    None if they do not reach it.
    """
    text: Message = {"role": "assistant", "content": "", "tool_calls": [_with_text(CALLING)]}
    if _shows_call(render, CALLING) and not _shows(render, [USER, CALLING], f"'{KEY}': '{VALUE}'"):
        return "object"
    if _shows_call(render, text):
        return "text"
    return "object" if _shows_call(render, CALLING) else None


def _with_text(calling: Message) -> dict[str, Any]:
    (call,) = calling["tool_calls"]
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}


def _shows_call(render: Render, calling: Message, result: Message = RESULT) -> bool:
    call = (NAME, KEY, VALUE)
    return _shows(render, [USER, calling], *call) and _shows(
        render, [USER, calling, result], *call, NOTE
    )


def shows_role(render: Render, role: str) -> bool:
    """Whether the text of messages in `role` reaches the model. Where the template raises, it does not
    stay silent about it, so True."""
    message = {"role": role, "content": NOTE}
    try:
        if role == "tool":
            return NOTE in render([USER, CALLING, RESULT], None)
        if role in ("system", "developer"):
            return NOTE in render([message, USER], None)
        return NOTE in render([USER, message], None)
    except InvalidMessages:
        return True


def renders_role(render: Render, role: str) -> bool:
    """Whether messages in `role` reach the model without tools and calls; not so where the template raises."""
    message = {"role": role, "content": NOTE}
    said = {"role": "assistant", "content": VALUE}
    before = [USER, said] if role == "tool" else []
    return _shows(render, [*before, message, *([] if before else [USER])], NOTE)


def calling(num_calls: int) -> Message:
    """A turn that calls NAME, and of two calls OTHER_NAME after it."""
    (call,) = CALLING["tool_calls"]
    other = {**call, "function": {**call["function"], "name": OTHER_NAME}}
    return {**CALLING, "tool_calls": [call, other][:num_calls]}


def accepts_id(render: Render, call_id: str) -> bool:
    """Whether a call may have the id."""
    (call,) = CALLING["tool_calls"]
    calling_so = {**CALLING, "tool_calls": [{**call, "id": call_id}]}
    return any(
        _shows_call(
            render, {**calling_so, "tool_calls": [one]}, {**RESULT, "tool_call_id": call_id}
        )
        for one in (calling_so["tool_calls"][0], _with_text(calling_so))
    )


def reasoning_text(render: Render) -> str:
    """A turn that was thought about, as it is shown."""
    turn = {"role": "assistant", "content": NOTE, "reasoning_content": VALUE}
    try:
        return render([USER, turn], None)
    except InvalidMessages:
        return ""


def _shows(
    render: Render,
    messages: list[Message],
    *words: str,
    tools: list[dict[str, Any]] | None = None,
) -> bool:
    try:
        text = render(messages, tools)
    except InvalidMessages:
        return False
    return all(word in text for word in words)
