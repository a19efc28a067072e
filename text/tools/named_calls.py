"""Calls as a name and an object of JSON, with words of the base before, between and behind them.

So Mistral's newer models have them (`[TOOL_CALLS]name[ARGS]{...}`), DeepSeek's, and many that are one of a kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .deltas import Calls
from .json_text import read_value
from .source import Reading, Source
from .writing import NOTHING, ArgumentsAsJson, Writing

_NAME = re.compile(r"[\w.-]*")


@dataclass(frozen=True)
class NamedCalls(ArgumentsAsJson):
    openings: tuple[str, ...]
    between: tuple[str, ...]
    """Between name and arguments; of two, a call's id stands between them."""
    again: str
    """From a call's arguments to the next call's name."""
    closing: str
    bare_start: str = ""
    writing: Writing = field(default=NOTHING, compare=False)

    @property
    def markup(self) -> tuple[str, ...]:
        return (*self.openings, *self.between, self.again, self.closing)

    def read(self, source: Source, calls: Calls) -> Reading[bool]:
        """The calls behind an opening. False where what comes is none; the source has kept it."""
        while True:
            yield from source.spaces()
            name = yield from source.run(_NAME)
            if not calls.offers(name) or not (yield from self._read_between(source)):
                return False
            yield from source.spaces()
            if (yield from source.peek()) != "{":
                return False
            calls.begin(name)
            is_complete = yield from read_value(source, calls.arguments)
            if calls.is_full or not is_complete:
                return True
            source.keep()
            yield from source.spaces()
            if not (yield from source.one_of((self.again,))):
                break
        yield from source.one_of((self.closing,))
        return True

    def _read_between(self, source: Source) -> Reading[bool]:
        for position, word in enumerate(self.between):
            yield from source.spaces()
            if position:
                yield from source.run(_NAME)
            if word and not (yield from source.one_of((word,))):
                return False
        return True
