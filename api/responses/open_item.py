"""An item that is on its way: its text comes in pieces, of which each is an event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from storage.ids import new_id

from .items import Item

Json = dict[str, Any]
Event = dict[str, Any]
Kind = Literal["output_text", "refusal", "reasoning_text", "arguments"]

_EVENTS: dict[Kind, str] = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "arguments": "response.function_call_arguments",
}


class OpenItem:
    def __init__(self, kind: Kind, item: Item) -> None:
        self.kind = kind
        self._item = item
        self._pieces: list[str] = []
        self._logprobs: list[Json] = []

    @classmethod
    def new(cls, kind: Kind, **fields: str) -> OpenItem:
        """One of which nothing has come yet; a call has `call_id` and `name`."""
        if kind == "arguments":
            return cls(kind, {"id": new_id("fc_", 40), "type": "function_call", **fields})
        if kind == "reasoning_text":
            return cls(kind, {"id": new_id("rs_", 40), "type": "reasoning", "summary": []})
        return cls(kind, {"id": new_id("msg_", 40), "type": "message", "role": "assistant"})

    @classmethod
    def of(cls, item: Item) -> tuple[OpenItem, str, list[Json]]:
        """A finished one as it was before anything had come; its text, and the log-probabilities of it."""
        bare = {k: v for k, v in item.items() if k not in ("content", "arguments", "status")}
        if item["type"] == "function_call":
            return cls("arguments", bare), item["arguments"], []
        part = item["content"][0]
        kind: Kind = part["type"]
        return cls(kind, bare), part[_field(kind)], part.get("logprobs") or []

    @property
    def id(self) -> str:
        item_id: str = self._item["id"]
        return item_id

    def shown(self, status: str, *, is_empty: bool = False) -> Item:
        text = "" if is_empty else "".join(self._pieces)
        if self.kind == "arguments":
            return {**self._item, "arguments": text, "status": status}
        return {**self._item, "content": [] if is_empty else [self._part(text)], "status": status}

    def begin(self) -> Iterator[Event]:
        if self.kind != "arguments":
            yield {
                "type": "response.content_part.added",
                "content_index": 0,
                "part": self._part(""),
            }

    def add(self, piece: str, logprobs: list[Json]) -> Iterator[Event]:
        self._pieces.append(piece)
        self._logprobs += logprobs
        yield self._event("delta", {"delta": piece}, logprobs)

    def end(self) -> Iterator[Event]:
        text = "".join(self._pieces)
        field = {_field(self.kind): text}
        if self.kind == "arguments":
            field["name"] = self._item["name"]
        yield self._event("done", field, self._logprobs)
        if self.kind != "arguments":
            yield {
                "type": "response.content_part.done",
                "content_index": 0,
                "part": self._part(text),
            }

    def _event(self, what: str, fields: Json, logprobs: list[Json]) -> Event:
        event = {"type": f"{_EVENTS[self.kind]}.{what}", **fields}
        if self.kind != "arguments":
            event["content_index"] = 0
        if self.kind == "output_text":
            event["logprobs"] = logprobs
        return event

    def _part(self, text: str) -> Json:
        part: Json = {"type": self.kind, _field(self.kind): text}
        if self.kind == "output_text":
            part |= {"annotations": [], "logprobs": list(self._logprobs) if text else []}
        return part


def _field(kind: Kind) -> str:
    """Under which name a part has its text."""
    return kind if kind in ("refusal", "arguments") else "text"
