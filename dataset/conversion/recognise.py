"""What a file is that is not JSON Lines of a job's own rows, and its rows as such."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataset.formats.row_format import Row
from foundation import encodings
from foundation.documents import TextFileReader
from foundation.jsonl import MAX_LINE_BYTES, BadLine, LineReader

from . import tables
from .rows import RowForm, Unmapped, form_of
from .tables import NotConvertible

_READ_BYTES = 1 << 20
_BLANKS = " \t\r\n"
PLAIN_TEXT = "plain text"
"""What a job reads as it is."""

_ARRAY = re.compile(r"\[\s*[{\]]")

Items = Iterator[tuple[int, Row | Unmapped]]


@dataclass
class Conversion:
    """A file of another form. `rows` may be asked for again and again."""

    name: str
    """What it was recognised as."""
    make: Callable[[Conversion], Items]
    left_out: Counter[str] = field(default_factory=Counter)
    """Keys that have no counterpart, and in how many rows; counted while `rows` are read."""

    def rows(self) -> Items:
        """With the numbers of their lines, or of their places in an array. Raises NotConvertible."""
        self.left_out.clear()
        return self.make(self)


def recognise(
    path: Path, filename: str, *, columns: Mapping[str, str] | None = None, to_chat: bool = False
) -> Conversion | None:
    """How the file's rows are made into rows to train on; None of JSON Lines that need nothing.

    With `to_chat` rows of prompt and completion become chats as well. Raises NotConvertible and OSError.
    """
    with path.open("rb") as file:
        beginning = file.read(_READ_BYTES)
    if wide := encodings.wide(beginning):
        raise NotConvertible(encodings.advice(wide))
    text = beginning.removeprefix(encodings.UTF_8_MARK).decode("utf-8", "replace").lstrip(_BLANKS)
    suffix = Path(filename).suffix.lower()
    is_json = text[:1] in ("{", "[")
    if columns is not None or (not is_json and tables.is_table(suffix, text.partition("\n")[0])):
        name = "TSV" if suffix == ".tsv" else "CSV"
        return Conversion(name, lambda _: tables.rows_of(path, suffix, columns))
    if _ARRAY.match(text):
        form = _form_of(_array_items(path), to_chat)
        name = f"a JSON array of {form.name} rows" if form else "a JSON array"
        return Conversion(name, lambda self: _mapped(_array_items(path), form, self))
    if text.startswith("{"):
        form = _form_of(_line_items(path), to_chat)
        if form is not None:
            return Conversion(
                f"{form.name} rows", lambda self: _mapped(_line_items(path), form, self)
            )
    elif suffix == ".txt":
        return Conversion(PLAIN_TEXT, lambda _: _documents(path))
    return None


def _form_of(items: Items, to_chat: bool) -> RowForm | None:
    """By the first row that is one."""
    row = next((row for _, row in itertools.islice(items, 10) if isinstance(row, dict)), None)
    form = None if row is None else form_of(row)
    return None if form is None or (form.is_own and not to_chat) else form


def _mapped(items: Items, form: RowForm | None, conversion: Conversion) -> Items:
    for number, row in items:
        if form is None or isinstance(row, Unmapped):
            yield number, row
            continue
        missing = sorted(form.keys - row.keys())
        if missing:
            yield number, Unmapped(f'it has no key "{missing[0]}"')
            continue
        try:
            converted = form.convert(row)
        except Unmapped as error:
            yield number, error
            continue
        conversion.left_out.update(row.keys() - form.known)
        yield number, converted


def _line_items(path: Path) -> Items:
    reader = LineReader()
    with path.open("rb") as file:
        for chunk in itertools.chain(iter(lambda: file.read(_READ_BYTES), b""), (None,)):
            rows = reader.close() if chunk is None else reader.feed(chunk)
            while True:
                try:
                    yield from rows
                    break
                except BadLine as error:
                    yield error.line_number, Unmapped(error.message)
                    rows = reader.feed(b"")


def _array_items(path: Path) -> Items:
    """Of a list, however long: what is read of it is one item at a time."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        buffer, number, is_all = file.read(_READ_BYTES).lstrip(_BLANKS)[1:], 0, False
        while True:
            buffer = buffer.lstrip(_BLANKS + ",")
            if buffer.startswith("]"):
                return
            try:
                item, end = decoder.raw_decode(buffer)
            except (ValueError, RecursionError) as error:
                more = "" if is_all or len(buffer) > 4 * MAX_LINE_BYTES else file.read(_READ_BYTES)
                if not more:
                    yield (
                        number + 1,
                        Unmapped(f"it is no JSON, and nothing behind it is read: {error}"),
                    )
                    return
                buffer += more
                continue
            number += 1
            yield number, item if isinstance(item, dict) else Unmapped("it is no JSON object")
            buffer = buffer[end:]
            if len(buffer) < MAX_LINE_BYTES and not is_all:
                more = file.read(_READ_BYTES)
                is_all = not more
                buffer += more


def _documents(path: Path) -> Items:
    reader = TextFileReader()
    with path.open("rb") as file:
        for chunk in itertools.chain(iter(lambda: file.read(_READ_BYTES), b""), (None,)):
            try:
                yield from reader.close() if chunk is None else reader.feed(chunk)
            except BadLine as error:
                yield error.line_number, Unmapped(error.message)
