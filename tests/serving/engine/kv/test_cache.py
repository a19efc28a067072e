from __future__ import annotations

import random
from itertools import takewhile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from serving.engine.kv import cache as kv_cache
from serving.engine.kv.cache import (
    MIN_REUSED_TOKENS,
    MIN_SHARED_TOKENS,
    CacheKey,
    CacheRow,
    KvCache,
)
from serving.engine.kv.kept_rows import KeptRows
from serving.engine.kv.pool import PAGE_TOKENS, KvPool, Region

BASE = CacheKey(None, "")
CONFIG = LlamaConfig(
    hidden_size=2, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1
)
LONG = list(range(300))


def make_cache(num_pages: int = 100) -> KvCache:
    pool = KvPool(
        CONFIG,
        size_bytes=num_pages * PAGE_TOKENS * 16,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    return KvCache(pool)


def compute(cache: KvCache, row: CacheRow, end: int | None = None) -> None:
    """As the engine would, but a token's key is its id."""
    end = len(row.tokens) if end is None else end
    assert cache.extend(row, end)
    new = torch.tensor(row.tokens[row.num_computed : end], dtype=torch.float32)
    start = row.region.start + row.num_computed - row.prefix_len
    keys_values = new.view(-1, 1, 1).expand(-1, 2, 2)
    cache.pool.write(0, torch.arange(start, start + len(new)), keys_values)
    row.num_computed = end


def keys_of(cache: KvCache, row: CacheRow) -> list[int]:
    """The ids whose keys the row holds, read as attention would."""
    ids: list[float] = []
    if row.root is not None:
        ids += cache.pool.views(row.root.region, 0, row.prefix_len)[0][0, 0, :, 0].tolist()
    num_own = row.num_computed - row.prefix_len
    ids += cache.pool.views(row.region, 0, num_own)[0][0, 0, :, 0].tolist()
    return [int(i) for i in ids]


def open_row(cache: KvCache, tokens: list[int], key: CacheKey = BASE) -> CacheRow:
    row = cache.open(key, list(tokens))
    assert row is not None
    return row


def finished(cache: KvCache, tokens: list[int], key: CacheKey = BASE) -> CacheRow:
    row = open_row(cache, tokens, key)
    compute(cache, row)
    cache.close(row)
    return row


def test_continued_conversation_takes_over_the_finished_row() -> None:
    cache = make_cache()
    first = finished(cache, LONG[:100])
    second = open_row(cache, LONG[:150])
    assert second is first
    assert second.num_computed == 100
    assert keys_of(cache, second) == LONG[:100]


def test_long_prefix_of_a_running_row_is_shared_by_reference() -> None:
    cache = make_cache()
    leader = open_row(cache, [*LONG, 1, 2])
    compute(cache, leader)
    follower = open_row(cache, [*LONG, 3, 4])
    assert (follower.root, follower.prefix_len) == (leader, 300)
    assert follower.region.capacity_tokens == PAGE_TOKENS
    compute(cache, follower)
    assert keys_of(cache, follower) == [*LONG, 3, 4]


def test_short_prefix_is_copied() -> None:
    cache = make_cache()
    leader = open_row(cache, [*LONG[:50], 1])
    compute(cache, leader)
    follower = open_row(cache, [*LONG[:50], 2])
    assert follower.root is None
    assert follower.num_computed == 50
    assert keys_of(cache, follower) == LONG[:50]


def test_child_of_a_child_shares_the_root_and_copies_the_rest() -> None:
    cache = make_cache()
    root = open_row(cache, [*LONG, 1])
    compute(cache, root)
    child = open_row(cache, [*LONG, *range(1000, 1100)])
    compute(cache, child)
    grandchild = open_row(cache, [*LONG, *range(1000, 1080), 7])
    assert (grandchild.root, grandchild.prefix_len) == (root, 300)
    assert grandchild.num_computed == 380
    assert keys_of(cache, grandchild) == [*LONG, *range(1000, 1080)]


def test_last_prompt_token_is_always_computed_again() -> None:
    cache = make_cache()
    finished(cache, LONG)
    assert open_row(cache, LONG).num_computed == 299


@pytest.mark.parametrize(
    "other", [CacheKey("adapter-a", ""), CacheKey(None, "proj_b"), CacheKey("adapter-a", "proj_b")]
)
def test_rows_of_other_adapters_and_tenants_are_never_reused(other: CacheKey) -> None:
    cache = make_cache()
    finished(cache, LONG)
    open_row(cache, [*LONG, 1])
    assert not cache.is_being_computed(other, LONG)
    row = open_row(cache, LONG, other)
    assert (row.num_computed, row.root) == (0, None)


def test_too_short_a_match_is_ignored() -> None:
    cache = make_cache()
    finished(cache, LONG)
    row = open_row(cache, [*LONG[: MIN_REUSED_TOKENS - 1], 999, 999])
    assert row.num_computed == 0


def test_prefix_is_awaited_while_another_row_computes_it() -> None:
    cache = make_cache()
    leader = open_row(cache, [*LONG, 1])
    assert cache.is_being_computed(BASE, [*LONG, 2])
    assert not cache.is_being_computed(BASE, [*LONG[:20], 999])
    compute(cache, leader, 200)
    assert cache.is_being_computed(BASE, [*LONG, 2])
    compute(cache, leader)
    assert not cache.is_being_computed(BASE, [*LONG, 2])


def test_least_recently_used_row_makes_room_first() -> None:
    cache = make_cache(num_pages=4)
    old = finished(cache, [1] * PAGE_TOKENS * 2)
    young = finished(cache, [2] * PAGE_TOKENS * 2)
    open_row(cache, [3] * PAGE_TOKENS)
    assert cache.num_kept_rows == 1
    assert open_row(cache, [2] * PAGE_TOKENS * 2) is young
    assert old.region.capacity_tokens  # its pages belong to others now; nobody reads it


def test_root_outlives_its_children_and_is_evicted_after_them() -> None:
    cache = make_cache(num_pages=4)
    root = open_row(cache, LONG)  # 3 pages
    compute(cache, root)
    child = open_row(cache, [*LONG[:256], *range(1000, 1050)])  # 1 page
    assert child.root is root
    compute(cache, child)
    cache.close(root)
    assert cache.open(BASE, list(range(2000, 2200))) is None
    cache.close(child)
    assert open_row(cache, list(range(2000, 2200))).num_computed == 0
    assert cache.num_kept_rows == 0


def test_forgetting_an_adapter_drops_its_rows_only() -> None:
    cache = make_cache()
    key = CacheKey("adapter-a", "")
    finished(cache, LONG, key)
    finished(cache, LONG)
    cache.forget("adapter-a")
    assert open_row(cache, LONG, key).num_computed == 0
    assert open_row(cache, LONG).num_computed == 299


def test_rows_hold_the_right_keys_through_any_history() -> None:
    """Random conversations with common beginnings in a pool that is far too small."""
    chance = random.Random(5)
    cache = make_cache(num_pages=40)
    keys = [BASE, CacheKey("adapter-a", ""), CacheKey("adapter-a", "proj_b")]
    stems = {key: [chance.sample(range(10_000), 400) for _ in range(2)] for key in keys}
    running: list[CacheRow] = []
    num_reused = num_shared = 0
    for _ in range(600):
        if running and chance.random() < 0.6:
            row = chance.choice(running)
            if chance.random() < 0.4 or not cache.extend(row, len(row.tokens) + 1):
                cache.close(row)
                running.remove(row)
            else:
                row.tokens.append(chance.randrange(10_000))
                compute(cache, row)
        else:
            key = chance.choice(keys)
            stem = chance.choice(stems[key])
            tail = [chance.randrange(10_000) for _ in range(chance.randrange(1, 40))]
            tokens = stem[: chance.randrange(len(stem))] + tail
            opened = cache.open(key, tokens)
            if opened is None:
                continue
            num_reused += opened.num_computed > 0
            num_shared += opened.prefix_len >= MIN_SHARED_TOKENS
            compute(cache, opened)
            running.append(opened)
        for row in running:
            assert keys_of(cache, row) == row.tokens
    assert num_reused > 50
    assert num_shared > 20
    for row in running:
        cache.close(row)
    while cache._evict_one():
        continue
    assert cache.pool.num_used_tokens == 0


def test_a_thousand_kept_rows_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(num_pages=1100)
    prompt = list(range(40))
    for number in range(1000):
        finished(cache, [*range(20), 1000 + number, *range(50)])
    assert cache.num_kept_rows == 1000
    num_looks = 0
    look = kv_cache._common_prefix_len

    def counted(a: list[int], b: list[int], limit: int | None = None) -> int:
        nonlocal num_looks
        num_looks += 1
        return look(a, b, limit)

    monkeypatch.setattr(kv_cache, "_common_prefix_len", counted)
    assert not cache.is_being_computed(BASE, prompt)
    row = open_row(cache, prompt)
    assert row.num_computed == 20
    assert num_looks < 20


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=30),
    st.lists(st.integers(0, 2), max_size=6),
    st.data(),
)
def test_the_nearest_kept_rows_share_the_longest_prefix(
    contents: list[list[int]], tokens: list[int], data: st.DataObject
) -> None:
    kept = KeptRows()
    region = Region(0, PAGE_TOKENS)
    rows = [CacheRow(BASE, content, region, len(content)) for content in contents]
    for row in rows:
        kept.add(row)
    for row in data.draw(st.lists(st.sampled_from(rows), unique_by=id) if rows else st.just([])):
        kept.remove(row)
        rows.remove(row)
    assert list(kept) == rows
    found = kept.nearest(BASE, tokens)
    assert all(row in rows for row in found)
    assert max((_num_common(row.tokens, tokens) for row in found), default=0) == max(
        (_num_common(row.tokens, tokens) for row in rows), default=0
    )


def _num_common(a: list[int], b: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
