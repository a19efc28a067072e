"""JSON Lines, read strictly: what users upload is checked by the same rules at upload and before training.

Standard JSON in UTF-8, one object a line, and nothing that one parser reads differently from another:
no NaN, no duplicate keys, no lone surrogates, no NUL, bounded lines, numbers and depth.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from . import encodings

MAX_LINE_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_INT_DIGITS = 100

_NEWLINE = 0x0A
# A line without these has no string that the decoder lets through and we do not.
_SUSPECT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")


class BadLine(ValueError):
    """A line that is no acceptable JSON object; `str()` gives OpenAI's text for it."""

    def __init__(
        self,
        line_number: int,
        message: str,
        kind: Literal["json", "object", "encoding"] = "json",
    ) -> None:
        super().__init__(line_number, message)
        self.kind = kind
        """What it is not."""
        self.line_number = line_number
        """1-based."""
        self.message = message

    def __str__(self) -> str:
        n = self.line_number
        return (
            f"Invalid file format. Example {n} cannot be parsed. Error: {self.message} (line {n})"
        )


class LineReader:
    """Takes a file in chunks of any size and gives its lines as objects, in constant memory.

    Blank lines are passed over but counted. After a `BadLine` the reader stands behind that line, so
    the next `feed` (of `b""` too) goes on with the lines that follow it.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, max_depth: int = MAX_DEPTH) -> None:
        self._max_line_bytes = max_line_bytes
        self._max_depth = max_depth
        self._decoder = json.JSONDecoder(
            object_pairs_hook=_object,
            parse_int=_int,
            parse_float=_float,
            parse_constant=_constant,
        )
        self._buffer = bytearray()
        self._start = 0
        """Where in the buffer the current line begins."""
        self._scanned = 0
        """Up to where the buffer is known to hold no end of the current line."""
        self._line_number = 1
        self._is_skipping = False
        """Inside a line that was too long."""

    def feed(self, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines that `data` completes, with their 1-based numbers. Raises BadLine."""
        del self._buffer[: self._start]
        self._scanned -= self._start
        self._start = 0
        self._buffer += data
        return self._complete_lines()

    def close(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The last line, if no newline ended it. Raises BadLine."""
        if not self._is_skipping:
            line = bytes(self._buffer[self._start :])
            self._start = self._scanned = len(self._buffer)
            yield from self._read(line, self._line_number)

    def _complete_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        while (end := self._buffer.find(_NEWLINE, self._scanned)) >= 0:
            line = bytes(self._buffer[self._start : end])
            number, is_skipped = self._line_number, self._is_skipping
            self._start = self._scanned = end + 1
            self._line_number += 1
            self._is_skipping = False
            if not is_skipped:
                yield from self._read(line, number)
        self._scanned = len(self._buffer)
        length = len(self._buffer) - self._start
        if self._is_skipping:
            self._start = self._scanned
        elif length > self._max_line_bytes:
            self._start = self._scanned
            self._is_skipping = True
            raise self._too_long(self._line_number)

    def _read(self, line: bytes, number: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if len(line) > self._max_line_bytes:
            raise self._too_long(number)
        if number == 1:
            line = _without_mark(line)
        if not line.strip():
            return
        try:
            value = self._decoder.decode(line.decode("utf-8"))
            self._check(value, line)
        except UnicodeDecodeError as error:
            problem = f"line is not valid UTF-8: {error}; {encodings.advice_on(line)}"
            raise BadLine(number, problem, "encoding") from error
        except json.JSONDecodeError as error:
            raise BadLine(number, f"line contains invalid json: {error}") from error
        except RecursionError as error:
            raise BadLine(number, f"line contains invalid json: {_too_deep(self)}") from error
        except _Refused as error:
            problem = f"line contains invalid json: {error}"
            raise BadLine(number, problem, error.kind) from error
        yield number, value

    def _check(self, value: object, line: bytes) -> None:
        """What the decoder does not refuse: other values than objects, depth, broken strings."""
        if not isinstance(value, dict):
            raise _Refused("Expecting an object", "object")
        can_be_deep = line.count(b"{") + line.count(b"[") > self._max_depth
        if not can_be_deep and not _SUSPECT.search(line):
            return
        stack: list[tuple[object, int]] = [(value, 1)]
        while stack:
            item, depth = stack.pop()
            if isinstance(item, str):
                _check_string(item)
                continue
            if isinstance(item, dict | list):
                if depth > self._max_depth:
                    raise _Refused(_too_deep(self))
                children = [*item.keys(), *item.values()] if isinstance(item, dict) else item
                stack.extend((child, depth + 1) for child in children)

    def _too_long(self, number: int) -> BadLine:
        return BadLine(number, f"line is longer than {self._max_line_bytes} bytes")


def read_line(line: bytes, number: int) -> dict[str, Any] | None:
    """The file's line `number` by itself, as a `LineReader` reads it; None if it is blank. Raises BadLine."""
    return next((row for _, row in _ALONE._read(line, number)), None)


class _Refused(Exception):
    """Read by the decoder, but not wanted here."""

    def __init__(self, problem: str, kind: Literal["json", "object"] = "json") -> None:
        super().__init__(problem)
        self.kind = kind


def _too_deep(reader: LineReader) -> str:
    return f"Nested deeper than {reader._max_depth} levels"


def _without_mark(first_line: bytes) -> bytes:
    if wide := encodings.wide(first_line):
        raise BadLine(1, encodings.advice(wide), "encoding")
    return first_line.removeprefix(encodings.UTF_8_MARK)


def _check_string(value: str) -> None:
    if "\0" in value:
        raise _Refused("A string holds the character NUL (\\u0000)")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Refused("A string holds half of a surrogate pair") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"Duplicate key {json.dumps(key[:100])}")
            seen.add(key)
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise _Refused(f"A number has more than {MAX_INT_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _Refused(f"The number {digits[:30]} is out of range")
    return value


def _constant(name: str) -> None:
    raise _Refused(f"{name} is not JSON")


_ALONE = LineReader()
"""Reads single lines; it keeps nothing of them."""
