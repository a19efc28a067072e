"""A chat completion's chunks as the events of a response, and the response that they add up to.

The order is OpenAI's: a response is created and in progress; each item is added, its text comes in pieces and is done, then
the item is; at the end the response is completed, incomplete or failed. Thoughts, text and each call are an item.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from storage.ids import new_id

from .open_item import Event, Kind, OpenItem

Json = dict[str, Any]

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is not complete, by the choice's `finish_reason`."""


class UnfoldingResponse:
    """Takes a chat completion's chunks as they come; gives the events that each of them is."""

    def __init__(self, body: Json) -> None:
        """`body` is the response before anything of it has come."""
        self._body = {**body, "output": []}
        self._num_events = 0
        self._open: OpenItem | None = None
        self._call_index: int | None = None
        self._finish_reason: str | None = None

    @property
    def is_finished(self) -> bool:
        """The chat completion has come to its end."""
        return self._finish_reason is not None

    def body(self) -> Json:
        """The response as far as it has come."""
        output = list(self._body["output"])
        if self._open is not None:
            output.append(self._open.shown("in_progress"))
        return {**self._body, "output": output}

    def begin(self) -> Iterator[Event]:
        self._body["status"] = "in_progress"
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self.body())

    def add(self, chunk: Json) -> Iterator[Event]:
        if isinstance(chunk.get("usage"), dict):
            self._body["usage"] = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            logprobs = (choice.get("logprobs") or {}).get("content") or []
            if delta.get("reasoning_content"):
                yield from self._add("reasoning_text", delta["reasoning_content"])
            if delta.get("content") or logprobs:
                entries = [_logprob(entry) for entry in logprobs]
                yield from self._add("output_text", delta.get("content") or "", entries)
            if delta.get("refusal"):
                yield from self._add("refusal", delta["refusal"])
            for call in delta.get("tool_calls") or ():
                yield from self._add_call(call)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def add_whole(self, chunks: Iterable[Json]) -> None:
        """All of them, of which nobody sees the events."""
        events = (self.begin(), *map(self.add, chunks), self.end())
        deque(chain.from_iterable(events), maxlen=0)

    def end(self) -> Iterator[Event]:
        """The last events, of a completion that has come to its end."""
        reason = _REASONS.get(self._finish_reason or "")
        if self._open is None and not self._body["output"]:
            yield from self._begin(OpenItem.new("output_text"))
        yield from self._close("incomplete" if reason else "completed")
        self._body["status"] = "incomplete" if reason else "completed"
        self._body["incomplete_details"] = {"reason": reason} if reason else None
        self._body["completed_at"] = None if reason else int(time.time())
        yield self._last_event()

    def fail(self, message: str, code: str) -> Iterator[Event]:
        """The last event of a completion that broke off."""
        self._body = failed(self.body(), message, code)
        self._open = None
        yield self._last_event()

    def replay(self, body: Json) -> Iterator[Event]:
        """All events of a response that is there already: each item in one piece."""
        yield from self.begin()
        for item in body["output"]:
            opened, text, logprobs = OpenItem.of(item)
            yield from self._begin(opened)
            if text:
                yield from self._told(opened.add(text, logprobs))
            yield from self._close(item["status"])
        self._body = body
        yield self._last_event()

    def _add(self, kind: Kind, piece: str, logprobs: list[Json] | None = None) -> Iterator[Event]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(OpenItem.new(kind))
        assert self._open is not None
        yield from self._told(self._open.add(piece, logprobs or []))

    def _add_call(self, call: Json) -> Iterator[Event]:
        function, index = call.get("function") or {}, call.get("index", 0)
        if self._open is None or self._open.kind != "arguments" or index != self._call_index:
            call_id, name = call.get("id") or new_id("call_"), function.get("name") or ""
            yield from self._begin(OpenItem.new("arguments", call_id=call_id, name=name))
            self._call_index = index
        if function.get("arguments"):
            yield from self._add("arguments", function["arguments"])

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open = item
        shown = item.shown("in_progress", is_empty=True)
        index = len(self._body["output"])
        yield self._event("response.output_item.added", output_index=index, item=shown)
        yield from self._told(item.begin())

    def _close(self, status: str) -> Iterator[Event]:
        if self._open is None:
            return
        yield from self._told(self._open.end())
        shown, index = self._open.shown(status), len(self._body["output"])
        self._open = None
        self._body["output"].append(shown)
        yield self._event("response.output_item.done", output_index=index, item=shown)

    def _told(self, events: Iterator[Event]) -> Iterator[Event]:
        """Events of the item that is open."""
        assert self._open is not None
        place = {"item_id": self._open.id, "output_index": len(self._body["output"])}
        for event in events:
            yield self._event(event.pop("type"), **place, **event)

    def _last_event(self) -> Event:
        # There is no event for a response that was cancelled.
        status = self._body["status"]
        name = "incomplete" if status == "cancelled" else status
        return self._event(f"response.{name}", response=self._body)

    def _event(self, name: str, /, **fields: Any) -> Event:
        number, self._num_events = self._num_events, self._num_events + 1
        return {"type": name, "sequence_number": number, **fields}


def failed(body: Json, message: str, code: str = "server_error") -> Json:
    """The response as one that failed."""
    return {**body, "status": "failed", "error": {"code": code, "message": message}}


def _usage(usage: Json) -> Json:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {
            "cached_tokens": prompt.get("cached_tokens", 0),
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": completion.get("reasoning_tokens", 0)},
        "total_tokens": usage.get("total_tokens", 0),
    }


def _logprob(entry: Json) -> Json:
    kept = ("token", "bytes", "logprob")
    top = [{name: each.get(name) for name in kept} for each in entry.get("top_logprobs") or ()]
    return {**{name: entry.get(name) for name in kept}, "top_logprobs": top}
