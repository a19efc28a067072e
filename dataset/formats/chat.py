"""Rows of a conversation: `{"messages": [...]}`, with the tools that it could use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import read_arguments

from .row_format import Problem, Row, extra, missing, no_text, wrong_keys, wrong_value

ROLES = ("system", "user", "assistant", "tool", "function", "developer")
_EXPECTED_ROLES = ", ".join(f"'{role}'" for role in ROLES)
_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_MESSAGE_KEYS = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {
            *("role", "content", "name", "weight", "tool_calls", "function_call", "refusal"),
            # What was thought before the answer, as bases that think have it.
            "reasoning_content",
            # What OpenAI's own replies have besides.
            *("annotations", "audio"),
        }
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_MAX_FUNCTIONS = 128


def claims(first_row: Row) -> bool:
    return "messages" in first_row


def problems(row: Row) -> Iterator[Problem]:
    if "messages" not in row:
        yield missing("messages")
    yield from extra(row, _KEYS)
    messages = row["messages"]
    yield from list_problems(messages, "messages")
    for position, message in enumerate(messages, start=1):
        for problem in message_problems(message):
            yield replace(problem, text=f", message {position}{problem.text}")
    if not any(message["role"] == "assistant" for message in messages):
        yield replace(
            wrong_keys(" must have at least one message from the assistant."), lint="E110"
        )
    yield from tool_problems(row)


def tokenize(row: Row, template: ChatTemplate) -> list[TokenizedExample]:
    return [template.tokenize_chat(row["messages"], tools_of(row))]


def tools_of(row: Row) -> list[Any] | None:
    """The tools on offer; "functions" is what they were called before."""
    functions = [{"type": "function", "function": f} for f in row.get("functions") or ()]
    return [*(row.get("tools") or ()), *functions] or None


def list_problems(messages: Any, name: str) -> Iterator[Problem]:
    if not isinstance(messages, list):
        yield wrong_value(f" {name} Input should be a valid list")
    if not messages:
        yield wrong_value(f" {name} List should have at least 1 item after validation, not 0")


# The texts below go behind "Example 7" or "Example 7, message 2".


def message_problems(message: Any) -> Iterator[Problem]:
    if not isinstance(message, dict):
        yield wrong_value(" Input should be a valid dictionary")
    if "role" not in message:
        yield wrong_value(" Discriminator 'role' is missing in value", "E106")
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        yield wrong_value(
            f" Input tag '{str(role)[:100]}' found using 'role' does not match any of the "
            f"expected tags: {_EXPECTED_ROLES}",
            "E106",
        )
    yield from extra(message, _MESSAGE_KEYS[role])
    for key in ("name", "tool_call_id", "refusal", "reasoning_content"):
        if not isinstance(message.get(key), str | None):
            yield wrong_value(f" {key} Input should be a valid string")
    if role == "tool" and message.get("tool_call_id") is None:
        yield missing("tool_call_id")
    yield from _content_problems(message, is_assistant=role == "assistant")
    if role == "assistant":
        yield from _assistant_problems(message)


def _content_problems(message: Row, *, is_assistant: bool) -> Iterator[Problem]:
    content = message.get("content")
    if content is None:
        says_otherwise = any(message.get(k) for k in ("tool_calls", "function_call", "refusal"))
        if not (is_assistant and says_otherwise):
            yield missing("content")
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text":
                yield wrong_value(
                    f" content has a part of type '{str(kind)[:100]}'; only text is read"
                )
            if not isinstance(part.get("text"), str):
                yield wrong_value(" content text Input should be a valid string")
    elif not isinstance(content, str):
        yield no_text("content", content)


def _assistant_problems(message: Row) -> Iterator[Problem]:
    weight = message.get("weight")
    if isinstance(weight, bool) or weight not in (None, 0, 1):
        yield wrong_value(" weight Input should be 0 or 1", "E109")
    if message.get("audio") is not None:
        yield wrong_value(" audio is not read by this base; leave it out, or null")
    if not isinstance(message.get("annotations"), list | None):
        yield wrong_value(" annotations Input should be a valid list")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        yield wrong_value(" tool_calls Input should be a valid list")
    for call in calls or ():
        yield from _call_problems(call.get("function") if isinstance(call, dict) else None)
    if message.get("function_call") is not None:
        yield from _call_problems(message["function_call"])


def _call_problems(function: Any) -> Iterator[Problem]:
    if not isinstance(function, dict):
        yield wrong_value(" function Input should be a valid dictionary")
    for key in ("name", "arguments"):
        if not isinstance(function.get(key), str):
            yield wrong_value(f" function {key} Input should be a valid string")
    if not _is_object(function["arguments"]):
        yield wrong_value(
            " function arguments Input should be a JSON object in a string, such as "
            '"{\\"city\\": \\"Oslo\\"}"'
        )


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(read_arguments(arguments), dict)
    except ValueError:
        return False


def tool_problems(row: Row) -> Iterator[Problem]:
    for key in ("tools", "functions"):
        tools = row.get(key)
        if tools is None:
            continue
        if not isinstance(tools, list):
            yield wrong_value(f" {key} Input should be a valid list")
        if len(tools) > _MAX_FUNCTIONS:
            yield wrong_value(f" {key} List should have at most {_MAX_FUNCTIONS} items")
        for tool in tools:
            function = tool.get("function") if key == "tools" and isinstance(tool, dict) else tool
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                yield wrong_value(f" {key} name Field required")
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        yield wrong_value(" parallel_tool_calls Input should be a valid boolean")
