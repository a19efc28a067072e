"""What one row of a training file may look like, and OpenAI's words for what is wrong with it.

A chat row is `{"messages": [...]}`, a completion row `{"prompt": ..., "completion": ...}`; the first
row decides which of the two the whole file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

Format = Literal["chat", "completion"]
Code = Literal["invalid_file_format", "invalid_training_file"]
Row = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool", "function", "developer")
_EXPECTED_ROLES = ", ".join(f"'{role}'" for role in ROLES)
_CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_COMPLETION_KEYS = frozenset({"prompt", "completion"})
_PREFERENCE_KEYS = frozenset({"preferred_output", "non_preferred_output"})
# Rows of other tools, by keys that they have together, and how to mend them.
_FOREIGN = (
    (
        {"instruction", "output"},
        "These are Alpaca rows (instruction, input, output). Write each as "
        '{"messages": [{"role": "user", "content": instruction and input}, '
        '{"role": "assistant", "content": output}]}.',
    ),
    (
        {"conversations"},
        "These are ShareGPT rows (conversations). Write each as "
        '{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}: '
        '"from" becomes "role" (human is user, gpt is assistant), "value" becomes "content".',
    ),
    (
        {"chosen", "rejected"},
        "These are preference rows (chosen, rejected), which supervised fine-tuning does not learn from. "
        'Write the answers to learn as {"messages": [...]}.',
    ),
    (
        {"text"},
        'These are rows of raw text. Write each as {"prompt": "", "completion": text}.',
    ),
    (
        {"input", "output"},
        'These are rows of input and output. Write each as {"messages": [{"role": "user", "content": '
        'input}, {"role": "assistant", "content": output}]}.',
    ),
)
_MESSAGE_KEYS = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {
            *("role", "content", "name", "weight", "tool_calls", "function_call", "refusal"),
            # What OpenAI's own replies have besides.
            *("annotations", "audio"),
        }
    ),
    "tool": frozenset({"role", "content", "name", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_MAX_FUNCTIONS = 128


@dataclass(frozen=True)
class Problem:
    code: Code
    text: str
    is_the_bases: bool = False
    """Another base might have taken the row."""


def format_of(first_row: Row, file_id: str) -> Format | Problem:
    """Which kind of file this row begins."""
    if "messages" in first_row:
        return "chat"
    if first_row.keys() & _COMPLETION_KEYS:
        return "completion"
    if first_row.keys() & _PREFERENCE_KEYS:
        return Problem(
            "invalid_training_file",
            f"Invalid file format. Input file {file_id} is in the fine-tune-preference format, but the specified "
            "fine-tuning job is not using 'dpo' as the training method "
            "(provided method=supervised). ",
        )
    hints = (hint for keys, hint in _FOREIGN if keys <= first_row.keys())
    text = "Unexpected file format, expected either prompt/completion pairs or chat messages."
    return Problem("invalid_training_file", " ".join((text, *islice(hints, 1))))


def problem_of(row: Row, number: int, file_format: Format) -> Problem | None:
    """The first thing wrong with the file's row `number`, if there is one."""
    problems = _completion_problems(row) if file_format == "completion" else _chat_problems(row)
    found = next(problems, None)
    if found is None:
        return None
    return Problem(found.code, f"Invalid file format. Example {number}{found.text}")


# The texts below go behind "Example 7" or "Example 7, message 2".


def _completion_problems(row: Row) -> Iterator[Problem]:
    for key in ("prompt", "completion"):
        if key not in row:
            yield _missing(key)
        elif not isinstance(row[key], str):
            yield _wrong(f" {key} Input should be a valid string")
    yield from _extra(row, _COMPLETION_KEYS)


def _chat_problems(row: Row) -> Iterator[Problem]:
    if "messages" not in row:
        yield _missing("messages")
    yield from _extra(row, _CHAT_KEYS)
    messages = row["messages"]
    if not isinstance(messages, list):
        yield _wrong(" messages Input should be a valid list")
    if not messages:
        yield _wrong(" messages List should have at least 1 item after validation, not 0")
    for position, message in enumerate(messages, start=1):
        for problem in _message_problems(message):
            yield Problem(problem.code, f", message {position}{problem.text}")
    if not any(message["role"] == "assistant" for message in messages):
        yield _format(" must have at least one message from the assistant.")
    yield from _tool_problems(row)


def _message_problems(message: Any) -> Iterator[Problem]:
    if not isinstance(message, dict):
        yield _wrong(" Input should be a valid dictionary")
    if "role" not in message:
        yield _wrong(" Discriminator 'role' is missing in value")
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        yield _wrong(
            f" Input tag '{str(role)[:100]}' found using 'role' does not match any of the "
            f"expected tags: {_EXPECTED_ROLES}"
        )
    yield from _extra(message, _MESSAGE_KEYS[role])
    for key in ("name", "tool_call_id", "refusal"):
        if not isinstance(message.get(key), str | None):
            yield _wrong(f" {key} Input should be a valid string")
    if role == "tool" and message.get("tool_call_id") is None:
        yield _missing("tool_call_id")
    yield from _content_problems(message, is_assistant=role == "assistant")
    if role == "assistant":
        yield from _assistant_problems(message)


def _content_problems(message: Row, *, is_assistant: bool) -> Iterator[Problem]:
    content = message.get("content")
    if content is None:
        says_otherwise = any(message.get(k) for k in ("tool_calls", "function_call", "refusal"))
        if not (is_assistant and says_otherwise):
            yield _missing("content")
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text":
                yield _wrong(f" content has a part of type '{str(kind)[:100]}'; only text is read")
            if not isinstance(part.get("text"), str):
                yield _wrong(" content text Input should be a valid string")
    elif not isinstance(content, str):
        yield _wrong(" content Input should be a valid string")


def _assistant_problems(message: Row) -> Iterator[Problem]:
    weight = message.get("weight")
    if isinstance(weight, bool) or weight not in (None, 0, 1):
        yield _wrong(" weight Input should be 0 or 1")
    if message.get("audio") is not None:
        yield _wrong(" audio is not read by this base; leave it out, or null")
    if not isinstance(message.get("annotations"), list | None):
        yield _wrong(" annotations Input should be a valid list")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        yield _wrong(" tool_calls Input should be a valid list")
    for call in calls or ():
        yield from _call_problems(call.get("function") if isinstance(call, dict) else None)
    if message.get("function_call") is not None:
        yield from _call_problems(message["function_call"])


def _call_problems(function: Any) -> Iterator[Problem]:
    if not isinstance(function, dict):
        yield _wrong(" function Input should be a valid dictionary")
    for key in ("name", "arguments"):
        if not isinstance(function.get(key), str):
            yield _wrong(f" function {key} Input should be a valid string")


def _tool_problems(row: Row) -> Iterator[Problem]:
    for key in ("tools", "functions"):
        tools = row.get(key)
        if tools is None:
            continue
        if not isinstance(tools, list):
            yield _wrong(f" {key} Input should be a valid list")
        if len(tools) > _MAX_FUNCTIONS:
            yield _wrong(f" {key} List should have at most {_MAX_FUNCTIONS} items")
        for tool in tools:
            function = tool.get("function") if key == "tools" and isinstance(tool, dict) else tool
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                yield _wrong(f" {key} name Field required")
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        yield _wrong(" parallel_tool_calls Input should be a valid boolean")


def _extra(value: Row, known: frozenset[str]) -> Iterator[Problem]:
    for key in value:
        if key not in known:
            yield _format(f' contains an extra "{key[:100]}".')


def _missing(key: str) -> Problem:
    return _format(f" is missing key '{key}'.")


def _format(text: str) -> Problem:
    """A wrong set of keys."""
    return Problem("invalid_file_format", text)


def _wrong(text: str) -> Problem:
    """A wrong value."""
    return Problem("invalid_training_file", text)
