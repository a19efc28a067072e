"""Chat messages as they come over the wire, in the shape that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# What OpenAI's replies say besides the text. It is no part of what a model reads.
UNREAD_KEYS = frozenset({"weight", "refusal", "annotations", "audio", "function_call"})


class ChatTemplateError(Exception):
    """The base's chat template is missing or cannot render what training needs."""


class InvalidMessages(ChatTemplateError):
    """The messages are at fault, not the template. `param` says which part of the request."""

    def __init__(self, problem: str, *, param: str = "messages") -> None:
        super().__init__(problem)
        self.param = param


def normalise(messages: Sequence[Message], *, knows_developer: bool) -> list[Message]:
    """Messages with text for content, tool calls of one form, and nothing that is null.

    Raises `InvalidMessages`.
    """
    if not messages:
        raise InvalidMessages("messages must not be empty")
    return [_normalise(m, f"messages[{i}]", knows_developer) for i, m in enumerate(messages)]


def weight_of(message: Message, where: str) -> float:
    """What a message's loss counts. Raises `InvalidMessages`."""
    weight = message.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
        raise InvalidMessages(
            f"{where}.weight: a message's weight must be a number that is not negative",
            param=f"{where}.weight",
        )
    return float(weight)


def _normalise(message: Message, where: str, knows_developer: bool) -> Message:
    if not isinstance(message, dict):
        raise InvalidMessages(f"{where} must be an object", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidMessages(
            f"{where}.role must be one of {', '.join(sorted(ROLES))}", param=f"{where}.role"
        )
    if message.get("audio") is not None:
        raise InvalidMessages(
            f"{where}.audio cannot be read by this base; send its transcript as the content",
            param=f"{where}.audio",
        )
    if role == "developer" and not knows_developer:
        role = "system"
    normal = {k: v for k, v in message.items() if k not in UNREAD_KEYS and v is not None}
    normal |= {"role": role, "content": _text_of(message, where)}
    normal.pop("tool_calls", None)
    if tool_calls := _tool_calls(message, where):
        normal["tool_calls"] = tool_calls
    return normal


def _text_of(message: Message, where: str) -> str:
    """A message's text, a refusal's as well; parts are joined by line breaks."""
    content, refusal = message.get("content"), message.get("refusal")
    where_content = f"{where}.content"
    if not isinstance(content, str | list | None):
        raise InvalidMessages(
            f"{where_content} must be a string or a list of text parts", param=where_content
        )
    if not isinstance(refusal, str | None):
        raise InvalidMessages(f"{where}.refusal must be a string", param=f"{where}.refusal")
    texts = (
        [content] if isinstance(content, str) else [_part(p, where_content) for p in content or ()]
    )
    if refusal and refusal not in texts:
        texts = [*filter(None, texts), refusal]
    return "\n".join(texts)


def _part(part: Any, where: str) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else None
    text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise InvalidMessages(
            f"{where} may hold text parts only: this base reads no other kind", param=where
        )
    return text


def _tool_calls(message: Message, where: str) -> list[Any]:
    """The calls of a message. The older `function_call` is one of them."""
    calls, call = message.get("tool_calls"), message.get("function_call")
    if not isinstance(calls, list | None):
        raise InvalidMessages(f"{where}.tool_calls must be a list", param=f"{where}.tool_calls")
    if not isinstance(call, dict | None):
        raise InvalidMessages(
            f"{where}.function_call must be an object", param=f"{where}.function_call"
        )
    older = [{"type": "function", "function": call}] if call else []
    return [
        *(_with_parsed_arguments(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls or ())),
        *(_with_parsed_arguments(c, f"{where}.function_call") for c in older),
    ]


def with_arguments_as_text(message: Message) -> Message:
    """For templates that put strings together: as JSON, in the same words whatever they were written in."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments or {}, ensure_ascii=False)
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls}


def read_arguments(written: str) -> Any:
    """Nothing at all is what models write where there are none. Raises ValueError for what is no JSON, or no text."""
    try:
        value = json.loads(written or "{}")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if "\\u" in written:
        # Half of a surrogate pair is no character, and no tokenizer takes it.
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _with_parsed_arguments(call: Any, where: str) -> Any:
    """Tool arguments are a JSON string on the wire and an object for templates."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidMessages(f"{where} must be a call of a function with a name", param=where)
    if not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = read_arguments(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
