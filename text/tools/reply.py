"""Generated text as it comes, taken apart: thoughts, text, calls.

Whatever can no longer become a call is text again, so nothing that a model says is lost. A call that names no tool
on offer is text as well. What stands behind the name of a tool on offer is passed on as the model wrote it: whether it
is right, the client must look.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .deltas import CallDelta, Calls, ContentDelta, ReasoningDelta, ReplyDelta
from .formats import ToolFormat
from .source import Reading, Source

_ALL = re.compile(r".*", re.DOTALL)


@dataclass(frozen=True)
class Reasoning:
    """Between which words a base thinks."""

    opening: str
    closing: str
    is_begun: bool = False
    """The prompt ends with the opening."""

    @property
    def markup(self) -> tuple[str, ...]:
        return (self.opening, self.closing)


class ReplyReader:
    """Reads one reply. However its text is cut, what it says in all is the same."""

    def __init__(
        self,
        tool_format: ToolFormat | None,
        offered: Mapping[str, Any],
        *,
        is_parallel: bool = True,
        reasoning: Reasoning | None = None,
    ) -> None:
        self._source = Source()
        self._out: list[ReplyDelta] = []
        self._calls = Calls(offered, self._out, is_parallel=is_parallel)
        self._format = tool_format if offered else None
        self._reasoning = reasoning
        self._has_content = False
        self.is_reasoning = reasoning is not None and reasoning.is_begun
        """Thoughts are what comes next, as far as is known."""
        self._reading = self._read()
        next(self._reading)

    @property
    def has_calls(self) -> bool:
        return self._calls.num_begun > 0

    def push(self, text: str) -> list[ReplyDelta]:
        """What became known by `text`."""
        self._source.push(text)
        next(self._reading)
        return self._told()

    def finish(self) -> list[ReplyDelta]:
        """The rest; nothing is read afterwards."""
        self._source.end()
        for _ in self._reading:
            raise AssertionError("a reader waits for text behind the end")
        return self._told()

    def _told(self) -> list[ReplyDelta]:
        told = _joined(self._out)
        self._out.clear()
        return told

    def _read(self) -> Reading[None]:
        if self._reasoning is not None:
            yield from self._read_reasoning(self._reasoning)
        if self._format is not None:
            yield from self._read_content(self._format)
        while (yield from self._source.peek()):
            rest = self._source.available(_ALL)
            if not self._calls.is_full:
                self._say(rest)

    def _read_reasoning(self, reasoning: Reasoning) -> Reading[None]:
        source = self._source
        spaces = yield from source.spaces()
        is_opened = yield from source.one_of((reasoning.opening,))
        if not (is_opened or reasoning.is_begun):
            self._say(spaces)
            return
        self.is_reasoning = True
        yield from source.spaces()
        plain = _up_to(reasoning.closing)
        while True:
            spaces = yield from source.spaces()
            is_closed = yield from source.one_of((reasoning.closing,))
            if is_closed or not (yield from source.peek()):
                break
            text = spaces + source.take(1) + source.available(plain)
            self._out.append(ReasoningDelta(text))
        self.is_reasoning = False
        yield from source.spaces()

    def _read_content(self, tool_format: ToolFormat) -> Reading[None]:
        source, calls = self._source, self._calls
        plain = _up_to("".join(opening[0] for opening in tool_format.openings))
        bare_start = tool_format.bare_start
        spaces = ""
        while True:
            spaces += yield from source.spaces()
            first = yield from source.peek()
            if not first:
                break
            source.keep()
            is_bare = bool(bare_start) and first == bare_start
            bare_start = ""
            if is_bare or (yield from source.one_of(tool_format.openings)):
                is_call = yield from tool_format.read(source, calls)
                if calls.is_full:
                    return
                if is_call:
                    continue
                text = source.kept()
            else:
                text = source.take(1) + source.available(plain)
            # Between a call and the first words there is nothing to part.
            self._say(spaces + text if self._has_content or not self.has_calls else text)
            spaces = ""
        if not self.has_calls:
            self._say(spaces)

    def _say(self, text: str) -> None:
        if text:
            self._has_content = True
            self._out.append(ContentDelta(text))


def _up_to(chars: str) -> re.Pattern[str]:
    """What has no white space, and none of the characters."""
    return re.compile(rf"[^\s{re.escape(chars)}]*")


def _joined(deltas: list[ReplyDelta]) -> list[ReplyDelta]:
    """Neighbours of one kind as one."""
    joined: list[ReplyDelta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        match last, delta:
            case ContentDelta(before), ContentDelta(more):
                joined[-1] = ContentDelta(before + more)
            case ReasoningDelta(before), ReasoningDelta(more):
                joined[-1] = ReasoningDelta(before + more)
            case CallDelta(index, None, before), CallDelta(same, None, more) if index == same:
                joined[-1] = CallDelta(index, None, before + more)
            case _:
                joined.append(delta)
    return joined
