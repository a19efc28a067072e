"""Which tokens' keys and values are in memory, and who may reuse them.

A row holds the keys and values of one token sequence. Finished rows are kept, least recently used out
first. A new sequence reuses the longest prefix that it shares with any row of the *same key*: the
adapter's id, its strength and a salt. Rows of different keys share nothing, for an adapter changes every key and
value, and a tenant must not learn from timing what another one asked.

A long shared prefix is referred to, not copied: the new row's region begins behind it, and attention
reads the prefix once for all rows that share it. So the rows form trees of depth two: roots, and
children whose first tokens lie in their root's region.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from .kept_rows import KeptRows
from .pool import KvPool, Region
from .prefix import KvPrefix

# A shorter match costs more to look after than to compute again.
MIN_REUSED_TOKENS = 16
# From here on a prefix is shared by reference; below it is copied.
MIN_SHARED_TOKENS = 128
# A sequence waits for another to compute its prefix if it saves at least this much.
MIN_AWAITED_TOKENS = 64


class CacheKey(NamedTuple):
    adapter_id: str | None
    salt: str
    strength: float = 1.0
    """Of the adapter."""


@dataclass(eq=False)
class CacheRow:
    """The keys and values of `tokens[:num_computed]`.

    Those of the first `prefix_len` tokens lie at the start of the root's region, the rest in `region`.
    """

    key: CacheKey
    tokens: list[int]
    """The sequence's own list, growing with it; once kept, exactly the computed tokens."""
    region: Region
    num_prompt_tokens: int
    num_computed: int = 0
    root: CacheRow | None = None
    prefix_len: int = 0
    num_children: int = 0
    is_running: bool = True


class KvCache:
    """Opens rows for sequences, keeps them when they are done, drops them when room is needed."""

    def __init__(self, pool: KvPool) -> None:
        self.pool = pool
        self._running: dict[CacheKey, list[CacheRow]] = defaultdict(list)
        self._kept = KeptRows()

    @property
    def num_kept_rows(self) -> int:
        return len(self._kept)

    def is_being_computed(
        self, key: CacheKey, tokens: list[int], *, prefix: KvPrefix | None = None
    ) -> bool:
        """Whether it pays to wait for a running row that has yet to compute what it shares with `tokens`."""
        num_coming, num_there = 0, prefix.num_tokens if prefix is not None else 0
        for row in self._candidates(key, tokens):
            num_common = min(_common_prefix_len(row.tokens, tokens), row.num_prompt_tokens)
            if row.is_running and row.num_computed < num_common:
                num_coming = max(num_coming, num_common)
            else:
                num_there = max(num_there, _usable(row, tokens))
        return num_coming - num_there >= MIN_AWAITED_TOKENS

    def open(
        self,
        key: CacheKey,
        tokens: list[int],
        *,
        headroom_tokens: int = 0,
        max_reused: int | None = None,
        prefix: KvPrefix | None = None,
    ) -> CacheRow | None:
        """A running row for `tokens`, its longest known prefix already computed, of at most `max_reused` tokens.

        At least one token stays to be computed, since its logits are wanted. None if there is no room. A trained
        `prefix`, with which `tokens` then begin, is there in any case.
        """
        # One of more in common than may be used is as good as any.
        reusable = tokens if max_reused is None else tokens[: max_reused + 1]
        best = self._best(key, reusable)
        num_usable = _usable(best, reusable)
        if best is None or num_usable < MIN_REUSED_TOKENS:
            row = self._make_new_row(key, tokens, prefix, headroom_tokens)
        elif self._can_take_over(best, num_usable):
            row = self._take_over(best, tokens, num_usable, headroom_tokens)
        else:
            row = self._branch(best, tokens, num_usable, headroom_tokens)
        if row is None and not self._running:
            # What was to be reused is itself in the way, and nobody runs whose end would make room.
            row = self._make_new_row(key, tokens, prefix, headroom_tokens)
        if row is not None:
            self._running[key].append(row)
        return row

    def extend(self, row: CacheRow, num_tokens: int) -> bool:
        """Make room for the row's first `num_tokens`. False if there is none, even without kept rows."""
        num_own = num_tokens - row.prefix_len
        num_kept = row.num_computed - row.prefix_len
        while not self.pool.grow(row.region, num_own, num_kept_tokens=num_kept):
            if not self._evict_one():
                return False
        return True

    def close(self, row: CacheRow, *, keep: bool = True) -> None:
        """The sequence is done with the row; it is kept for others if it is worth it."""
        self._running[row.key].remove(row)
        if not self._running[row.key]:
            del self._running[row.key]
        row.is_running = False
        row.tokens = row.tokens[: row.num_computed]
        self.pool.shrink(row.region, row.num_computed - row.prefix_len)
        if not keep:
            # Nobody may find it; whoever reads it already is of the same key.
            row.num_computed, row.tokens = 0, []
        self._kept.add(row)
        if row.num_computed < MIN_REUSED_TOKENS and row.num_children == 0:
            self._drop(row)

    def forget(self, adapter_id: str) -> None:
        """Drop the kept rows of an adapter, but what a running row reads."""
        rows = self._kept.of_adapter(adapter_id)
        # Children first.
        for row in sorted(rows, key=lambda row: row.root is None):
            if row.num_children == 0:
                self._drop(row)

    def _best(self, key: CacheKey, tokens: list[int]) -> CacheRow | None:
        """A row with most computed tokens in common; rather one that can be taken over."""
        return max(
            self._candidates(key, tokens),
            key=lambda row: (_usable(row, tokens), not row.is_running and row.num_children == 0),
            default=None,
        )

    def _candidates(self, key: CacheKey, tokens: list[int]) -> list[CacheRow]:
        """Rows, one of which has as much in common with `tokens` as any."""
        return [*self._running.get(key, ()), *self._kept.nearest(key, tokens)]

    def _can_take_over(self, row: CacheRow, num_usable: int) -> bool:
        """Nobody else needs the row, and little of it would be lost."""
        is_free = not row.is_running and row.num_children == 0
        return is_free and num_usable >= row.prefix_len and 2 * num_usable >= row.num_computed

    def _take_over(
        self, row: CacheRow, tokens: list[int], num_usable: int, headroom_tokens: int
    ) -> CacheRow | None:
        self._kept.remove(row)
        row.num_computed = num_usable
        if not self.extend(row, len(tokens) + headroom_tokens):
            row.tokens = row.tokens[:num_usable]
            self._kept.add(row)
            return None
        row.tokens, row.is_running = tokens, True
        row.num_prompt_tokens = len(tokens)
        return row

    def _branch(
        self, source: CacheRow, tokens: list[int], num_usable: int, headroom_tokens: int
    ) -> CacheRow | None:
        """A new row that shares a long prefix with the source's root and copies the rest."""
        root = source.root or source
        num_in_root = min(num_usable, source.prefix_len) if source.root else num_usable
        prefix_len = num_in_root if num_in_root >= MIN_SHARED_TOKENS else 0
        # Pinned, so that making room does not evict what is about to be read.
        root.num_children += 1
        source.num_children += 1
        row = self._make_row(
            source.key, tokens, root if prefix_len else None, prefix_len, headroom_tokens
        )
        root.num_children -= 1
        source.num_children -= 1
        if row is None:
            return None
        if prefix_len < num_in_root:
            self.pool.copy(root.region, 0, row.region, 0, num_in_root)
        if num_in_root < num_usable:
            self.pool.copy(
                source.region, 0, row.region, num_in_root - prefix_len, num_usable - num_in_root
            )
        row.num_computed = num_usable
        return row

    def _make_new_row(
        self, key: CacheKey, tokens: list[int], prefix: KvPrefix | None, headroom_tokens: int
    ) -> CacheRow | None:
        """A row of which nothing is computed but a trained prefix."""
        row = self._make_row(key, tokens, None, 0, headroom_tokens)
        if row is not None and prefix is not None:
            self.pool.fill(row.region, prefix.keys_values)
            row.num_computed = prefix.num_tokens
        return row

    def _make_row(
        self,
        key: CacheKey,
        tokens: list[int],
        root: CacheRow | None,
        prefix_len: int,
        headroom_tokens: int,
    ) -> CacheRow | None:
        num_own = len(tokens) - prefix_len + headroom_tokens
        while (region := self.pool.allocate(num_own)) is None:
            if not self._evict_one():
                return None
        if root is not None:
            root.num_children += 1
            if not root.is_running:
                # Used just now: as young as a row that was finished just now.
                self._kept.touch(root)
        return CacheRow(
            key=key,
            tokens=tokens,
            region=region,
            num_prompt_tokens=len(tokens),
            num_computed=prefix_len,
            root=root,
            prefix_len=prefix_len,
        )

    def _evict_one(self) -> bool:
        for row in self._kept:
            if row.num_children == 0:
                self._drop(row)
                return True
        return False

    def _drop(self, row: CacheRow) -> None:
        self._kept.remove(row)
        self.pool.free(row.region)
        if row.root is not None:
            row.root.num_children -= 1


def _usable(row: CacheRow | None, tokens: list[int]) -> int:
    """How many of `tokens` need not be computed again thanks to `row`."""
    if row is None:
        return 0
    limit = min(row.num_computed, len(tokens) - 1)
    return min(_common_prefix_len(row.tokens, tokens, limit), limit)


def _common_prefix_len(a: list[int], b: list[int], limit: int | None = None) -> int:
    """Length of the longest common prefix, by halving: comparing slices is fast, a loop is not."""
    high = min(len(a), len(b)) if limit is None else limit
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
