from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from serving.engine import attention
from serving.engine.attention import (
    AttentionStep,
    Chunk,
    UnsupportedModel,
    attend,
    max_attended_tokens,
)
from serving.engine.kv.cache import CacheKey, CacheRow, KvCache
from serving.engine.kv.pool import KvPool

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 6, 2, 8
SCALE = HEAD_DIM**-0.5
CONFIG = LlamaConfig(
    hidden_size=NUM_HEADS * HEAD_DIM,
    num_attention_heads=NUM_HEADS,
    num_key_value_heads=NUM_KV_HEADS,
    num_hidden_layers=1,
)
LAYER = SimpleNamespace(layer_idx=0)


class Keys:
    """Random queries, keys and values: of a token that depend on its id and position alone, so that
    sequences with equal beginnings have equal keys."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.queries = torch.randn(NUM_HEADS, 5000, HEAD_DIM, generator=generator)
        self.keys = torch.randn(NUM_KV_HEADS, 5000, HEAD_DIM, generator=generator)
        self.values = torch.randn(NUM_KV_HEADS, 5000, HEAD_DIM, generator=generator)

    def of(self, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        return self.queries[:, ids], self.keys[:, ids], self.values[:, ids]

    def expected(self, ids: list[int], start: int) -> Tensor:
        """Plain causal attention of ids[start:]: (n, H, D)."""
        q, k, v = (t[None] for t in self.of(ids))
        group = NUM_HEADS // NUM_KV_HEADS
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=SCALE)
        return out[0].transpose(0, 1)[start:]


def run_step(cache: KvCache, keys: Keys, chunks: list[tuple[CacheRow, int]]) -> list[Tensor]:
    """Compute each row up to the given end in one batch; gives (n, H, D) for each."""
    spans = [Chunk(row, row.num_computed, end) for row, end in chunks]
    ids = [i for chunk in spans for i in chunk.row.tokens[chunk.start : chunk.end]]
    q, k, v = (t[None] for t in keys.of(ids))
    step = AttentionStep(cache.pool, spans)
    out, _ = attend(LAYER, q, k, v, None, scaling=SCALE, step=step)  # type: ignore[arg-type]
    for row, end in chunks:
        row.num_computed = end
    return list(torch.split(out[0], [chunk.end - chunk.start for chunk in spans]))


def make_cache() -> KvCache:
    pool = KvPool(CONFIG, size_bytes=1 << 20, dtype=torch.float32, device=torch.device("cpu"))
    return KvCache(pool)


def open_row(cache: KvCache, ids: list[int]) -> CacheRow:
    row = cache.open(CacheKey(None, ""), ids, headroom_tokens=8)
    assert row is not None
    return row


def test_prompts_chunks_and_single_tokens_in_one_batch_attend_as_if_alone() -> None:
    cache, keys = make_cache(), Keys()
    a, b, c = (open_row(cache, list(range(s, s + 90))) for s in (0, 1000, 2000))
    run_step(cache, keys, [(a, 40), (b, 89)])
    outs = run_step(cache, keys, [(a, 90), (b, 90), (c, 33)])
    for out, row, start in zip(outs, (a, b, c), (40, 89, 0), strict=True):
        expected = keys.expected(row.tokens[: row.num_computed], start)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_rows_that_share_a_prefix_attend_to_it_as_if_it_were_their_own() -> None:
    cache, keys = make_cache(), Keys()
    prefix = list(range(200))
    leader = open_row(cache, [*prefix, 4000])
    run_step(cache, keys, [(leader, 201)])
    rows = [open_row(cache, [*prefix, *range(s, s + 30)]) for s in (1000, 2000, 3000)]
    assert all(row.root is leader for row in rows)
    # A chunk, then the rest of it beside single tokens: every kind of stretch meets the prefix.
    first = run_step(cache, keys, [(rows[0], 229), (rows[1], 229), (rows[2], 210)])
    then = run_step(cache, keys, [(rows[0], 230), (rows[1], 230), (rows[2], 230)])
    for row, early, late in zip(rows, first, then, strict=True):
        expected = keys.expected(row.tokens, 200)
        torch.testing.assert_close(torch.cat([early, late]), expected, atol=1e-5, rtol=1e-5)


def test_single_tokens_of_rows_of_many_lengths_attend_as_if_alone() -> None:
    cache, keys = make_cache(), Keys()
    lengths = (30, 90, 60, 200, 50, 40, 300, 70, 20)
    rows = [
        open_row(cache, list(range(300 * i, 300 * i + length))) for i, length in enumerate(lengths)
    ]
    run_step(cache, keys, [(row, len(row.tokens) - 1) for row in rows])
    # Holes between the rows, so that not all of them lie equally far apart.
    for row in (rows.pop(4), rows.pop(1)):
        cache.close(row)
    outs = run_step(cache, keys, [(row, len(row.tokens)) for row in rows])
    for out, row in zip(outs, rows, strict=True):
        expected = keys.expected(row.tokens, len(row.tokens) - 1)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_rows_whose_regions_are_alike_are_computed_in_one_call() -> None:
    cache, keys = make_cache(), Keys()
    rows = [open_row(cache, list(range(500 * i, 500 * i + 20 + i))) for i in range(6)]
    run_step(cache, keys, [(row, len(row.tokens) - 1) for row in rows])
    step = AttentionStep(cache.pool, [Chunk(r, r.num_computed, len(r.tokens)) for r in rows])
    assert [rows.tokens.tolist() for rows in step.singles] == [[0, 1, 2, 3, 4, 5]]


def test_numbers_that_a_broken_adapter_left_behind_reach_nobody() -> None:
    cache, keys = make_cache(), Keys()
    region = cache.pool.allocate(cache.pool.num_tokens)
    assert region is not None
    nans = torch.full((region.capacity_tokens, 2 * NUM_KV_HEADS, HEAD_DIM), torch.nan)
    cache.pool.write(0, torch.arange(region.capacity_tokens), nans)
    cache.pool.free(region)
    # The shorter row's keys are masked up to the longer one's end.
    short, long = open_row(cache, list(range(1000, 1010))), open_row(cache, list(range(90)))
    run_step(cache, keys, [(short, 9), (long, 89)])
    out, _ = run_step(cache, keys, [(short, 10), (long, 90)])
    torch.testing.assert_close(out, keys.expected(short.tokens, 9), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
def test_plain_and_fused_kernels_agree(is_causal: bool) -> None:
    """Other devices compute what the CPU's kernel computes, the denominator included."""
    q, k, v = (t[None] for t in Keys().of(list(range(20))))
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    fused = attention._fused_attention(q, k, v, SCALE, is_causal, None)
    plain = attention._plain_attention(q, k, v, SCALE, is_causal, None)
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_and_fused_kernels_agree_behind_a_mask(dtype: torch.dtype) -> None:
    q, k, v = (t[:, None].to(dtype) for t in Keys().of(list(range(20))))
    k, v = k.repeat_interleave(3, 0), v.repeat_interleave(3, 0)
    mask = torch.zeros(len(q), 1, 1, 20, dtype=dtype)
    mask[1::2, ..., 13:] = -torch.inf
    fused = attention._fused_attention(q, k, v, SCALE, False, mask)
    plain = attention._plain_attention(q, k, v, SCALE, False, mask)
    torch.testing.assert_close(fused, plain, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0)


def test_models_that_would_be_computed_wrongly_are_refused() -> None:
    capped = LlamaConfig()
    capped.attn_logit_softcapping = 30.0
    with pytest.raises(UnsupportedModel, match="attn_logit_softcapping"):
        max_attended_tokens(capped)
    hybrid = LlamaConfig()
    hybrid.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        max_attended_tokens(hybrid)


def test_sliding_window_limits_the_context() -> None:
    assert max_attended_tokens(LlamaConfig(max_position_embeddings=100)) == 100
    mistral = MistralConfig(max_position_embeddings=100, sliding_window=40)
    assert max_attended_tokens(mistral) == 40
    unused = Qwen2Config(max_position_embeddings=100, sliding_window=40, use_sliding_window=False)
    assert max_attended_tokens(unused) == 100
