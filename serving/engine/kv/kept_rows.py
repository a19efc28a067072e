"""Finished rows, found by their tokens without looking at each: there may be thousands.

Of a sorted list, the entries that share most with something are those on both sides of its place. So a
search takes a few comparisons, however many rows one tenant's requests have left behind.
"""

from __future__ import annotations

from bisect import bisect_left, insort_right
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cache import CacheKey, CacheRow

_tokens = attrgetter("tokens")


class KeptRows:
    """Iterates over the rows, least recently used first. The tokens of what is in here stay as they are."""

    def __init__(self) -> None:
        self._by_age: OrderedDict[CacheRow, None] = OrderedDict()
        self._by_tokens: dict[CacheKey, list[CacheRow]] = {}

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[CacheRow]:
        return iter(self._by_age)

    def add(self, row: CacheRow) -> None:
        """As the one that was used last."""
        self._by_age[row] = None
        insort_right(self._by_tokens.setdefault(row.key, []), row, key=_tokens)

    def remove(self, row: CacheRow) -> None:
        del self._by_age[row]
        rows = self._by_tokens[row.key]
        place = bisect_left(rows, row.tokens, key=_tokens)
        while rows[place] is not row:
            place += 1
        del rows[place]
        if not rows:
            del self._by_tokens[row.key]

    def touch(self, row: CacheRow) -> None:
        """It was used just now."""
        self._by_age.move_to_end(row)

    def nearest(self, key: CacheKey, tokens: list[int]) -> list[CacheRow]:
        """Two rows of the key at most, one of which has the longest prefix in common with `tokens`."""
        rows = self._by_tokens.get(key, [])
        place = bisect_left(rows, tokens, key=_tokens)
        return rows[max(0, place - 1) : place + 1]

    def of_adapter(self, adapter_id: str) -> list[CacheRow]:
        return [
            row
            for key, rows in self._by_tokens.items()
            if key.adapter_id == adapter_id
            for row in rows
        ]
