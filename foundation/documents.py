"""Plain text as what it is a file of: one document, or several with a line `<|endoftext|>` between two of them.

A document comes as the row `{"text": ...}`, so whoever reads JSON Lines reads these too.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from . import encodings
from .jsonl import MAX_LINE_BYTES, BadLine, LineReader

SEPARATOR = "<|endoftext|>"
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""A long novel. It is tokenised in one piece."""
_SEPARATOR_LINE = re.compile(rb"^<\|endoftext\|>[ \t\r]*\n", re.MULTILINE)
_BLANKS = b" \t\r\n"

Rows = Iterator[tuple[int, dict[str, Any]]]


class RowReader(Protocol):
    """Takes a file in chunks of any size and gives its rows with their 1-based numbers, as `LineReader` does."""

    def feed(self, data: bytes) -> Rows: ...
    def close(self) -> Rows: ...


class BadDocument(BadLine):
    """A document that is no acceptable text."""

    def __str__(self) -> str:
        return f"Invalid file format. Document {self.line_number} cannot be read. Error: {self.message}"


def reader_of(filename: str) -> RowReader:
    """What reads a training file of that name."""
    return TextFileReader() if filename.lower().endswith(".txt") else LineReader()


class TextFileReader:
    """A .txt file is JSON Lines if its first line that is not blank is a JSON object, and plain text otherwise."""

    def __init__(self) -> None:
        self._beginning = b""
        self._reader: RowReader | None = None

    def feed(self, data: bytes) -> Rows:
        """Raises BadLine."""
        if self._reader is not None:
            return self._reader.feed(data)
        self._beginning += data
        self._reader = self._chosen(is_all=False)
        return self._reader.feed(self._beginning) if self._reader else iter(())

    def close(self) -> Rows:
        """Raises BadLine."""
        if self._reader is not None:
            return self._reader.close()
        self._reader = self._chosen(is_all=True)
        assert self._reader is not None
        return itertools.chain(self._reader.feed(self._beginning), self._reader.close())

    def _chosen(self, *, is_all: bool) -> RowReader | None:
        """None while too little is there to tell."""
        start = self._beginning.removeprefix(encodings.UTF_8_MARK).lstrip(_BLANKS)
        line, newline, _ = start.partition(b"\n")
        if line and (not line.startswith(b"{") or len(line) > MAX_LINE_BYTES):
            return DocumentReader()
        if newline or is_all:
            return LineReader() if _is_object(line) else DocumentReader()
        return None


class DocumentReader:
    """Takes plain text in chunks of any size and gives its documents, holding one at a time.

    A document has neither the line breaks at its ends nor carriage returns before line breaks; one that is blank is
    passed over. After a `BadDocument` nothing more is read.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        """From the beginning of the current document."""
        self._scanned = 0
        """Where in the buffer the first line begins that was not looked at, for it has no end yet."""
        self._number = 0
        self._is_beginning = True
        self._is_over = False

    def feed(self, data: bytes) -> Rows:
        """The documents that `data` completes. Raises BadDocument."""
        self._buffer += data
        is_within_line = b"\n" not in data and len(self._buffer) <= MAX_DOCUMENT_BYTES
        return iter(()) if is_within_line else self._complete_documents(is_all=False)

    def close(self) -> Rows:
        """The last ones. Raises BadDocument."""
        self._buffer += b"\n"
        return self._complete_documents(is_all=True)

    def _complete_documents(self, *, is_all: bool) -> Rows:
        if self._is_beginning and not is_all and len(self._buffer) < encodings.LOOKED_AT_BYTES:
            return
        if self._is_beginning:
            self._is_beginning = False
            if wide := encodings.wide(self._buffer):
                raise self._refusal(encodings.advice(wide))
            if self._buffer.startswith(encodings.UTF_8_MARK):
                del self._buffer[: len(encodings.UTF_8_MARK)]
        while not self._is_over:
            found = _SEPARATOR_LINE.search(self._buffer, self._scanned)
            end = found.start() if found else len(self._buffer)
            if end > MAX_DOCUMENT_BYTES:
                raise self._refusal(
                    f"it is longer than {MAX_DOCUMENT_BYTES} bytes; put a line {SEPARATOR} between its parts"
                )
            if found is None and not is_all:
                self._scanned = self._buffer.rfind(b"\n") + 1
                return
            document = bytes(self._buffer[:end])
            del self._buffer[: found.end() if found else end]
            self._scanned = 0
            self._is_over = found is None
            yield from self._read(document)

    def _read(self, document: bytes) -> Rows:
        try:
            text = document.decode("utf-8").replace("\r\n", "\n").strip("\n")
        except UnicodeDecodeError as error:
            raise self._refusal(
                f"it is not valid UTF-8: {error}; {encodings.advice_on(document)}"
            ) from error
        if "\0" in text:
            raise self._refusal("it holds the character NUL, so it is no text")
        if text.strip():
            self._number += 1
            yield self._number, {"text": text}

    def _refusal(self, problem: str) -> BadDocument:
        self._is_over = True
        return BadDocument(self._number + 1, problem)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
