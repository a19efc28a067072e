"""Values of JSON in a text that arrives in pieces, passed on as they are written.

What is read is where a value ends, not whether it is right: brackets and strings are followed, and a character
that stands nowhere in JSON ends a value that is not complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from .source import Reading, Source

Sink = Callable[[str], None]

# What stands between brackets and strings, and what single values are made of.
_BETWEEN = re.compile(r"[\s,:\w.+-]*")
_SINGLE = re.compile(r"[\w.+-]*")
_IN_STRING = re.compile(r'[^"\\]*')
_CLOSING = {"{": "}", "[": "]"}


def read_value(source: Source, sink: Sink) -> Reading[bool]:
    """Passes the value that comes next to `sink`, in pieces. False if the text ends, or is no JSON, before its end."""
    first = yield from source.peek()
    if first == '"':
        return (yield from _read_string(source, sink))
    if first in _CLOSING:
        return (yield from _read_nested(source, sink))
    single = yield from source.run(_SINGLE)
    sink(single)
    return bool(single)


def read_text(source: Source) -> Reading[str | None]:
    """The string that comes next, decoded; None if none does, or it is not complete."""
    pieces: list[str] = []
    if (yield from source.peek()) != '"' or not (yield from _read_string(source, pieces.append)):
        return None
    return decoded("".join(pieces))


def decoded(written: str) -> str | None:
    """A string of JSON; None if it is none."""
    try:
        value = json.loads(written, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _read_nested(source: Source, sink: Sink) -> Reading[bool]:
    open_brackets: list[str] = []
    while True:
        char = yield from source.peek()
        if char == '"':
            if not (yield from _read_string(source, sink)):
                return False
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
            sink(source.take(1))
        elif char and char == open_brackets[-1]:
            sink(source.take(1))
            open_brackets.pop()
            if not open_brackets:
                return True
        elif between := source.available(_BETWEEN):
            sink(between)
        else:
            return False


def _read_string(source: Source, sink: Sink) -> Reading[bool]:
    sink(source.take(1))
    while char := (yield from source.peek()):
        if char == '"':
            sink(source.take(1))
            return True
        if char == "\\":
            # With the character that it escapes, whichever that is.
            sink(source.take(1))
            if not (yield from source.peek()):
                return False
            sink(source.take(1))
        else:
            sink(source.available(_IN_STRING))
    return False
