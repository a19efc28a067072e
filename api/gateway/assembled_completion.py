"""A streamed completion put together again, as it would have come without streaming; and the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")
# What of a chunk's choice is joined to what came before; all else says the same each time, or comes once.
_JOINED = frozenset({"delta", "text", "logprobs"})


def chunks(completion: Json) -> Iterator[Json]:
    """A whole completion as a stream of it: what each choice says in one chunk, its end in another, the usage in the last."""
    is_chat = completion["object"] == AssembledCompletion.kind
    head = completion | ({"object": "chat.completion.chunk"} if is_chat else {})
    for choice in completion["choices"]:
        for part in _parts_of_chat(choice) if is_chat else (choice,):
            yield {**head, "choices": [part]}
    yield {**head, "choices": []}


def _parts_of_chat(choice: Json) -> Iterator[Json]:
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(delta["tool_calls"])]
    said = {name: value for name, value in choice.items() if name != "message"}
    yield {**said, "delta": delta, "finish_reason": None}
    yield {**said, "delta": {}, "logprobs": None}


class AssembledCompletion:
    """Takes the chunks of a chat; whatever in them has not the shape of OpenAI's is left out."""

    kind = "chat.completion"

    def __init__(self, *, has_logprobs: bool = False) -> None:
        self._has_logprobs = has_logprobs
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: Json | None = None

    @property
    def is_complete(self) -> bool:
        """Every choice has come to its end."""
        return bool(self._choices) and all(c["finish_reason"] for c in self._choices.values())

    def add(self, chunk: Json) -> None:
        for name in _HEAD:
            if name in chunk and self._head.get(name) is None:
                self._head[name] = chunk[name]
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        for part in chunk.get("choices") or ():
            self._add_choice(part)

    def body(self) -> Json:
        """The completion whole."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {
            "id": "",
            "created": 0,
            "model": "",
            **self._head,
            "object": self.kind,
            "choices": choices,
            "usage": self._usage,
        }

    def _add_choice(self, part: Json) -> None:
        index = part.get("index", 0)
        choice = self._choices.setdefault(
            index, {"index": index, "finish_reason": None, **self._nothing()}
        )
        for name, value in part.items():
            if name not in _JOINED and value is not None:
                choice[name] = value
        self._add_content(choice, part)
        if isinstance(part.get("logprobs"), dict):
            choice["logprobs"] = _joined(choice["logprobs"] or {}, part["logprobs"])

    def _nothing(self) -> Json:
        """A choice's content before anything of it has come."""
        # A reply of no token has no chunk with log-probabilities, and a list of them all the same.
        logprobs: Json | None = {"content": [], "refusal": None} if self._has_logprobs else None
        message = {"role": "assistant", "content": None, "refusal": None}
        return {"message": message, "logprobs": logprobs}

    def _add_content(self, choice: Json, part: Json) -> None:
        _add_delta(choice["message"], part.get("delta") or {})


class AssembledText(AssembledCompletion):
    """Takes the chunks of a text completion."""

    kind = "text_completion"

    def _nothing(self) -> Json:
        return {"text": "", "logprobs": None}

    def _add_content(self, choice: Json, part: Json) -> None:
        choice["text"] += part.get("text") or ""


def _add_delta(message: Json, delta: Json) -> None:
    message["role"] = delta.get("role") or message["role"]
    for name in ("content", "refusal", "reasoning_content"):
        if isinstance(delta.get(name), str):
            message[name] = (message.get(name) or "") + delta[name]
    if isinstance(delta.get("function_call"), dict):
        call = message.setdefault("function_call", {"name": "", "arguments": ""})
        _extend(call, delta["function_call"])
    for call in delta.get("tool_calls") or ():
        _add_call(message.setdefault("tool_calls", []), call)


def _add_call(calls: list[Json], part: Json) -> None:
    """The first part of a tool call says which function, the later ones have its arguments."""
    index = part.get("index", 0)
    if index >= len(calls):
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        index = len(calls) - 1
    call, function = calls[index], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    _extend(call["function"], function)


def _extend(call: Json, part: Json) -> None:
    for name in ("name", "arguments"):
        call[name] += part.get(name) or ""


def _joined(before: Json, after: Json) -> Json:
    """Log-probabilities: lists of entries one a token, or null where there are none of a kind."""
    lists = dict(before)
    for name, entries in after.items():
        if isinstance(entries, list) and isinstance(lists.get(name), list):
            # In place: what has come so far is not copied for each chunk.
            lists[name].extend(entries)
        elif isinstance(entries, list) or name not in lists:
            lists[name] = list(entries) if isinstance(entries, list) else entries
    return lists
