"""The message of one choice, in OpenAI's words: in deltas as it comes, and whole."""

from __future__ import annotations

from serving.engine.sequence import Delta
from serving.requests import Wire
from storage.ids import new_id
from text.tools.deltas import CallDelta, ContentDelta, ReasoningDelta, ReplyDelta
from text.tools.dialect import Dialect

from .tools import Offer


class MessageStream:
    """What a model says, read as it comes."""

    def __init__(self, offer: Offer, dialect: Dialect, *, shows_thoughts: bool) -> None:
        self._reader = dialect.reader(
            offer.callable_schemas, is_parallel=offer.is_parallel, shows_thoughts=shows_thoughts
        )
        self._is_legacy = offer.is_legacy
        # Of a reply that can be nothing but text, that is known from the start.
        self._is_text = not offer.callable_names and (
            dialect.reasoning is None or not shows_thoughts
        )
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Wire] = []
        self._arguments: list[list[str]] = []

    @property
    def is_reasoning(self) -> bool:
        return self._reader.is_reasoning

    def push(self, text: str, *, is_last: bool) -> list[Wire]:
        """Deltas of what became known."""
        told = self._reader.push(text)
        if is_last:
            told += self._reader.finish()
        return [self._delta(one) for one in told]

    def first(self) -> Wire:
        return {"role": "assistant", "content": "" if self._is_text else None, "refusal": None}

    def nothing(self) -> Wire:
        """A delta in which nothing is said."""
        return {"content": ""} if self._is_text else {}

    def last(self) -> Wire:
        is_empty = not (self._is_text or self._content or self._calls)
        return {"content": ""} if is_empty else {}

    def finish_reason(self, delta: Delta) -> str | None:
        if delta.finish_reason != "stop" or not self._calls:
            return delta.finish_reason
        return "function_call" if self._is_legacy else "tool_calls"

    def whole(self) -> Wire:
        """The message, once the last of it has come."""
        content = "".join(self._content)
        message: Wire = {
            "role": "assistant",
            "content": content if content or not self._calls else None,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        for call, arguments in zip(self._calls, self._arguments, strict=True):
            call["function"]["arguments"] = "".join(arguments)
        if self._calls and self._is_legacy:
            message["function_call"] = self._calls[0]["function"]
        elif self._calls:
            message["tool_calls"] = self._calls
        return message

    def _delta(self, told: ReplyDelta) -> Wire:
        match told:
            case ContentDelta(text):
                self._content.append(text)
                return {"content": text}
            case ReasoningDelta(text):
                self._reasoning.append(text)
                return {"reasoning_content": text}
            case CallDelta():
                return self._call_delta(told)

    def _call_delta(self, told: CallDelta) -> Wire:
        if told.name is None:
            self._arguments[told.index].append(told.arguments)
            function: Wire = {"arguments": told.arguments}
            head: Wire = {}
        else:
            function = {"name": told.name, "arguments": told.arguments}
            head = {"id": new_id("call_"), "type": "function"}
            self._calls.append({**head, "function": dict(function)})
            self._arguments.append([])
        if self._is_legacy:
            return {"function_call": function}
        return {"tool_calls": [{"index": told.index, **head, "function": function}]}
