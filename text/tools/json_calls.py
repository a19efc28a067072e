"""Calls as objects of JSON, `{"name": ..., "arguments": {...}}`, one by one or in a list, mostly between tags.

So Hermes, Qwen and our own form have them (`<tool_call>`), Mistral's older models (`[TOOL_CALLS]`), and Llama 3,
whose reply is nothing but the call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .deltas import Calls
from .json_text import read_text, read_value
from .source import Reading, Source
from .writing import NOTHING, ArgumentsAsJson, Writing

ARGUMENTS = frozenset({"arguments", "parameters"})


@dataclass(frozen=True)
class JsonCalls(ArgumentsAsJson):
    openings: tuple[str, ...]
    """What stands before a call, or before a list of them."""
    closing: str
    is_bare: bool = False
    """A reply that begins with an object may be a call without an opening."""
    arguments_key: str = "arguments"
    is_list: bool = False
    writing: Writing = field(default=NOTHING, compare=False)

    @property
    def bare_start(self) -> str:
        return "{" if self.is_bare else ""

    @property
    def markup(self) -> tuple[str, ...]:
        return (*self.openings, self.closing)

    def read(self, source: Source, calls: Calls) -> Reading[bool]:
        """The calls behind an opening. False where what comes is none; the source has kept it."""
        yield from source.spaces()
        yield from source.one_of("[")
        while True:
            yield from source.spaces()
            if (yield from source.peek()) != "{" or not (
                yield from _Call(source, calls).read(needs_arguments=self.is_bare)
            ):
                return False
            if calls.is_full:
                return True
            source.keep()
            yield from source.spaces()
            yield from source.one_of(",;")
            yield from source.spaces()
            if (yield from source.peek()) != "{":
                break
        yield from source.one_of("]")
        yield from source.spaces()
        yield from source.one_of((self.closing,))
        return True


class _Call:
    """One object on its way to being a call."""

    def __init__(self, source: Source, calls: Calls) -> None:
        self._source = source
        self._calls = calls
        self._depth = 1
        self._name: str | None = None
        self._arguments: str | None = None
        """What could not be passed on as it came."""
        self._is_begun = False

    def read(self, *, needs_arguments: bool) -> Reading[bool]:
        """False if it is no call of what is on offer, of which nothing has been told then."""
        self._source.take(1)
        while self._depth:
            if not (yield from self._read_entry()) or not (yield from self._read_end()):
                return self._is_begun
        if self._is_begun:
            return True
        if self._name is None or (needs_arguments and self._arguments is None):
            return False
        self._calls.begin(self._name)
        self._calls.arguments(self._arguments or "{}")
        return True

    def _read_entry(self) -> Reading[bool]:
        source = self._source
        yield from source.spaces()
        key = yield from read_text(source)
        yield from source.spaces()
        if key is None or not (yield from source.one_of(":")):
            return False
        yield from source.spaces()
        if key == "function" and self._depth == 1 and (yield from source.one_of("{")):
            # As OpenAI writes a call, with its name and arguments one level deeper.
            self._depth += 1
            return (yield from self._read_entry())
        if key == "name" and self._name is None:
            self._name = yield from read_text(source)
            return self._name is not None and self._calls.offers(self._name)
        if key in ARGUMENTS and not self._is_begun:
            return (yield from self._read_arguments())
        return (yield from read_value(source, lambda _: None))

    def _read_end(self) -> Reading[bool]:
        """Behind an entry."""
        source = self._source
        yield from source.spaces()
        while self._depth and (yield from source.one_of("}")):
            self._depth -= 1
            if self._depth:
                yield from source.spaces()
        return not self._depth or bool((yield from source.one_of(",")))

    def _read_arguments(self) -> Reading[bool]:
        source = self._source
        first = yield from source.peek()
        if first == "{" and self._name is not None:
            self._calls.begin(self._name)
            self._is_begun = True
            return (yield from read_value(source, self._calls.arguments))
        if first == '"':
            # An object in a string, as it is on the wire.
            self._arguments = yield from read_text(source)
            return self._arguments is not None
        pieces: list[str] = []
        is_complete = yield from read_value(source, pieces.append)
        written = "".join(pieces)
        self._arguments = "{}" if written == "null" else written
        return is_complete and self._arguments.startswith("{")
