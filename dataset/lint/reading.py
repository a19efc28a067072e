"""A file in blocks of whole lines, and their rows: read quickly where nothing can be wrong with them, else strictly.

What is quick is orjson, and a row that holds nothing but texts under the keys that it must have. orjson is more lenient
than `foundation.jsonl` in two things, and both are looked for by their bytes: NUL, and a key that is there twice, for then
the block has more of its keys than its rows have, or spells a letter as an escape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from foundation.jsonl import MAX_LINE_BYTES

from .forms import CHAT_PATHS, FLAT, Said
from .turns import RoleOrder, is_quick

BLOCK_BYTES = 1 << 20
_MAX_ORDERS = 4096
_TEXT = {str}
_STRANGE = (b"\\u0000", b"\\u006", b"\\u007")


@dataclass(frozen=True, slots=True)
class LineBlock:
    lines: list[bytes]
    """Without their line breaks; one that is too long is cut, and still too long."""
    starts: list[int]
    """Where in the file each begins."""
    number: int
    """Of the first line, from 1."""
    data: bytes
    """The lines as one."""


def blocks(path: Path) -> Iterator[LineBlock]:
    """In constant memory. Raises OSError."""
    number, offset, rest = 1, 0, b""
    with path.open("rb") as file:
        while chunk := file.read(BLOCK_BYTES):
            data, newline, behind = chunk.rpartition(b"\n")
            if not newline:
                rest = _cut(rest + behind)
                continue
            block = _block(rest + data, offset, number)
            yield block
            number += len(block.lines)
            offset = file.tell() - len(behind)
            rest = behind
        if rest:
            yield _block(rest, offset, number)


def _cut(line: bytes) -> bytes:
    """What is beyond the longest line is only known to be there."""
    return line if len(line) <= 2 * MAX_LINE_BYTES else line[: 2 * MAX_LINE_BYTES]


def _block(data: bytes, offset: int, number: int) -> LineBlock:
    lines = data.split(b"\n")
    starts, position = [], offset
    for line in lines:
        starts.append(position)
        position += len(line) + 1
    return LineBlock(lines, starts, number, data)


class QuickReader:
    """Rows that are nothing but texts, of the form of a file's first one."""

    def __init__(self, first_row: dict[str, Any]) -> None:
        self._keys = next((keys for keys in FLAT if set(keys) == first_row.keys()), None)
        self._turns: dict[tuple[str, ...], RoleOrder | None] = {}
        self._of_flat = RoleOrder.of(FLAT[self._keys]) if self._keys else None

    def read(self, block: LineBlock) -> list[tuple[Said, RoleOrder] | None]:
        """A row for each line; None for those that must be read strictly."""
        if b"\\u00" in block.data and any(escape in block.data for escape in _STRANGE):
            return [None] * len(block.lines)
        if self._keys is None:
            return self._read_chats(block)
        return self._read_flat(block, self._keys)

    def _read_chats(self, block: LineBlock) -> list[tuple[Said, RoleOrder] | None]:
        rows: list[tuple[Said, RoleOrder] | None] = []
        num_messages = num_rows = 0
        loads, known = orjson.loads, self._turns
        for line in block.lines:
            try:
                row = loads(line)
                messages = row["messages"]
                roles = tuple([message["role"] for message in messages])
                texts = [message["content"] for message in messages]
                turns = known[roles] if roles in known else self._learn(roles)
                if (
                    turns is None
                    or len(row) != 1
                    or sum(map(len, messages)) != 2 * len(texts)
                    or set(map(type, texts)) != _TEXT
                    or len(line) > MAX_LINE_BYTES
                ):
                    rows.append(None)
                    continue
            except (ValueError, KeyError, TypeError):
                rows.append(None)
                continue
            num_messages += len(texts)
            num_rows += 1
            rows.append((Said(roles, texts, CHAT_PATHS), turns))
        if num_rows < len(block.lines):
            # Rows that are read strictly have keys as well.
            return self._checked_one_by_one(block, rows)
        counts = [block.data.count(key) for key in (b'"role"', b'"content"', b'"messages"')]
        if counts == [num_messages, num_messages, num_rows]:
            return rows
        return self._checked_one_by_one(block, rows)

    def _checked_one_by_one(
        self, block: LineBlock, rows: list[tuple[Said, RoleOrder] | None]
    ) -> list[tuple[Said, RoleOrder] | None]:
        """Without those that could have a key twice."""
        for index, row in enumerate(rows):
            if row is not None:
                line, num = block.lines[index], len(row[0].texts)
                if (
                    line.count(b'"role"') != num
                    or line.count(b'"content"') != num
                    or line.count(b'"messages"') != 1
                ):
                    rows[index] = None
        return rows

    def _learn(self, roles: tuple[str, ...]) -> RoleOrder | None:
        turns = RoleOrder.of(roles) if is_quick(roles) else None
        if len(self._turns) < _MAX_ORDERS and len(roles) < 100:
            self._turns[roles] = turns
        return turns

    def _read_flat(
        self, block: LineBlock, keys: tuple[str, ...]
    ) -> list[tuple[Said, RoleOrder] | None]:
        rows: list[tuple[Said, RoleOrder] | None] = []
        loads, turns, roles = orjson.loads, self._of_flat, FLAT[keys]
        assert turns is not None
        names = [f'"{key}"'.encode() for key in keys]
        for line in block.lines:
            try:
                row = loads(line)
                texts = [row[key] for key in keys]
                is_flat = len(row) == len(keys) and set(map(type, texts)) == _TEXT
            except (ValueError, KeyError, TypeError):
                is_flat = False
            if not is_flat or len(line) > MAX_LINE_BYTES or any(line.count(n) != 1 for n in names):
                rows.append(None)
                continue
            rows.append((Said(roles, texts, keys), turns))
        return rows


def scanned(
    block: LineBlock, rows: Sequence[tuple[Said, RoleOrder] | None]
) -> tuple[bytes, list[int]]:
    """The block with no escapes but those of quotes and control characters, and where its lines begin.

    So whatever is looked for is spelled in one way.
    """
    if b"\\u" not in block.data and b"\\/" not in block.data:
        first = block.starts[0]
        return block.data, [start - first for start in block.starts]
    lines, starts, position = [], [], 0
    for line, row in zip(block.lines, rows, strict=True):
        if row is not None and (b"\\u" in line or b"\\/" in line):
            said = row[0]
            line = orjson.dumps([*said.texts, *(text for _, text in said.others)])
        lines.append(line)
        starts.append(position)
        position += len(line) + 1
    return b"\n".join(lines), starts
