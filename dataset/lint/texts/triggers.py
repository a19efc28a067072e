"""Where in a piece of a file something might be, found by looking for bytes: most rows are never looked at more closely.

A trigger may be wrong about a row, but never misses one: what it finds is looked at again by a rule. What stands in a
file as an escape is put into UTF-8 first (`rows`), so that a text has one spelling only.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# How often a byte is in files of chats; the rarest one of a literal is looked for first, which takes hardly any time.
_FREQUENT = b'etaoinsrhldcu"mfpgwyb,.v:k\\{}[]n0123456789TIASC-xqzjBDEFGHJKLMNOPQRUVWXYZ'
_RANKS = {byte: rank for rank, byte in enumerate(reversed(_FREQUENT), start=1)}


@dataclass(frozen=True)
class Trigger:
    literals: tuple[bytes, ...] = ()
    pattern: re.Pattern[bytes] | None = None
    is_ascii: bool = True
    """False where it cannot be in a piece that is ASCII as a whole."""

    def positions(self, data: bytes, starts: Sequence[int]) -> Iterator[int]:
        """Which of the lines of `data`, that begin at `starts`, have it: indices, those of one literal in their order."""
        for literal in self.literals:
            if _rarest(literal) not in data:
                continue
            position = data.find(literal)
            while position >= 0:
                index = bisect_right(starts, position) - 1
                yield index
                if index + 1 == len(starts):
                    break
                position = data.find(literal, starts[index + 1])
        if self.pattern is not None:
            found = self.pattern.search(data)
            while found is not None:
                index = bisect_right(starts, found.start()) - 1
                yield index
                if index + 1 == len(starts):
                    break
                found = self.pattern.search(data, starts[index + 1])


def _rarest(literal: bytes) -> bytes:
    return _RAREST.setdefault(literal, bytes((min(literal, key=lambda b: _RANKS.get(b, 0)),)))


_RAREST: dict[bytes, bytes] = {}
