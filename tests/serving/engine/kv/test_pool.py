from __future__ import annotations

import torch
from transformers import LlamaConfig

from serving.engine.kv.pool import PAGE_TOKENS, KvPool, Region

CONFIG = LlamaConfig(
    hidden_size=4, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2
)
BYTES_PER_TOKEN = 2 * 2 * 1 * 2 * 4


def make_pool(num_pages: int) -> KvPool:
    return KvPool(
        CONFIG,
        size_bytes=num_pages * PAGE_TOKENS * BYTES_PER_TOKEN,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def fill(pool: KvPool, region: Region, num_tokens: int) -> torch.Tensor:
    """Write distinct numbers; gives what layer 1's keys should read."""
    keys = torch.arange(num_tokens * 2, dtype=torch.float32).view(1, num_tokens, 2)
    places = torch.arange(region.start, region.start + num_tokens)
    for layer in range(2):
        pool.write(layer, places, torch.cat([keys + layer, -keys]).transpose(0, 1))
    return keys + 1


def test_size_is_what_fits_into_the_bytes() -> None:
    pool = make_pool(3)
    assert pool.bytes_per_token == BYTES_PER_TOKEN
    assert pool.num_tokens == 3 * PAGE_TOKENS


def test_regions_do_not_overlap_and_come_back_when_freed() -> None:
    pool = make_pool(3)
    first, second = pool.allocate(1), pool.allocate(PAGE_TOKENS + 1)
    assert first is not None
    assert second is not None
    assert first.start + first.capacity_tokens <= second.start
    assert pool.allocate(1) is None
    pool.free(first)
    assert pool.allocate(PAGE_TOKENS + 1) is None
    assert pool.allocate(PAGE_TOKENS) is not None


def test_region_grows_in_place_where_the_next_pages_are_free() -> None:
    pool = make_pool(3)
    region = pool.allocate(10)
    assert region is not None
    expected = fill(pool, region, 10)
    assert pool.grow(region, 3 * PAGE_TOKENS, num_kept_tokens=10)
    assert (region.start, region.capacity_tokens) == (0, 3 * PAGE_TOKENS)
    assert torch.equal(pool.views(region, 0, 10)[2][0], expected)


def test_region_moves_with_its_content_where_the_next_page_is_taken() -> None:
    pool = make_pool(4)
    region, _neighbour = pool.allocate(10), pool.allocate(10)
    assert region is not None
    expected = fill(pool, region, 10)
    assert pool.grow(region, PAGE_TOKENS + 1, num_kept_tokens=10)
    assert region.start == 2 * PAGE_TOKENS
    assert torch.equal(pool.views(region, 0, 10)[2][0], expected)
    assert pool.num_used_tokens == 3 * PAGE_TOKENS


def test_region_stays_as_it_was_where_it_cannot_grow() -> None:
    pool = make_pool(2)
    region, _neighbour = pool.allocate(10), pool.allocate(10)
    assert region is not None
    assert not pool.grow(region, PAGE_TOKENS + 1, num_kept_tokens=10)
    assert (region.start, region.capacity_tokens) == (0, PAGE_TOKENS)
    assert pool.num_used_tokens == 2 * PAGE_TOKENS


def test_shrinking_gives_back_whole_pages() -> None:
    pool = make_pool(3)
    region = pool.allocate(3 * PAGE_TOKENS)
    assert region is not None
    pool.shrink(region, PAGE_TOKENS + 1)
    assert region.capacity_tokens == 2 * PAGE_TOKENS
    pool.shrink(region, 0)
    assert pool.num_used_tokens == PAGE_TOKENS
