"""A streamed chat completion put together again, as it would have come without streaming."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


class AssembledCompletion:
    """Takes chunks; whatever in them has not the shape of OpenAI's is left out."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: Json | None = None

    @property
    def is_complete(self) -> bool:
        """Every choice has come to its end."""
        return bool(self._choices) and all(c["finish_reason"] for c in self._choices.values())

    def add(self, chunk: Json) -> None:
        self._head |= {name: chunk[name] for name in _HEAD if chunk.get(name) is not None}
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for part in chunk.get("choices") or ():
            self._add_choice(part)

    def body(self) -> Json:
        """A `chat.completion`."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {
            "id": "",
            "created": 0,
            "model": "",
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage,
        }

    def _add_choice(self, part: Json) -> None:
        index = part.get("index", 0)
        choice = self._choices.setdefault(
            index,
            {
                "index": index,
                "message": {"role": "assistant", "content": None, "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            },
        )
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
        _add_delta(choice["message"], part.get("delta") or {})
        if isinstance(part.get("logprobs"), dict):
            choice["logprobs"] = _joined(choice["logprobs"] or {}, part["logprobs"])


def _add_delta(message: Json, delta: Json) -> None:
    message["role"] = delta.get("role") or message["role"]
    for name in ("content", "refusal"):
        if isinstance(delta.get(name), str):
            message[name] = (message[name] or "") + delta[name]
    for call in delta.get("tool_calls") or ():
        _add_call(message.setdefault("tool_calls", []), call)


def _add_call(calls: list[Json], part: Json) -> None:
    """Of a tool call, the first part says which function, the later ones have its arguments."""
    index = part.get("index", 0)
    if index >= len(calls):
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        index = len(calls) - 1
    call, function = calls[index], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    for name in ("name", "arguments"):
        call["function"][name] += function.get(name) or ""


def _joined(before: Json, after: Json) -> Json:
    """Log-probabilities: lists of entries one a token."""
    return {
        name: (before.get(name) or []) + (after.get(name) or []) or None
        for name in ("content", "refusal")
    }
