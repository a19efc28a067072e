"""Attention over the key-value pool, registered with transformers as one more implementation.

A step's batch is packed: tokens of many sequences side by side in one row, no padding and no mask.
Attention over several stretches of keys is exact when each stretch also yields the logarithm of its
softmax's denominator, so each token's attention is put together from at most three stretches:

    own chunk           causal, among the tokens of this step
    own earlier tokens  everything before the chunk in the sequence's region
    shared prefix       read once for all the sequences of the batch that share it
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

from serving.engine.kv.cache import CacheRow
from serving.engine.kv.pool import KvPool, Region

NAME = "luthier_kv"


class UnsupportedModel(Exception):
    """This engine cannot compute the model; the message says why."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens start..end of a row, to be computed in this step."""

    row: CacheRow
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """The batch's tokens begin..end attend to all these keys, or (no views) causally each other."""

    begin: int
    end: int
    views: tuple[Tensor, ...] = ()


class _Single(NamedTuple):
    """A chunk of a single token, which attends to all of its row's own keys."""

    region: Region
    num_keys: int
    place: int
    """In the batch."""


@dataclass(frozen=True, slots=True)
class _Singles:
    """Those whose keys one view shows: one call for many rows."""

    tokens: Tensor
    """(n,) their places in the batch."""
    views: tuple[Tensor, ...]
    """[2l] layer l's keys, [2l + 1] its values, (n, kv heads, m, D) for the longest row's m."""
    mask: Tensor | None
    """(n, 1, 1, m), -inf behind the end of a shorter row; None if all are equally long."""


class AttentionStep:
    """Where one step's tokens are written and what they attend to; the same in every layer.

    Chunks that share a prefix must be neighbours in `chunks`.
    """

    def __init__(self, pool: KvPool, chunks: Sequence[Chunk]) -> None:
        self.pool = pool
        self.chunks: list[_Stretch] = []
        self.past: list[_Stretch] = []
        places: list[int] = []
        groups: list[tuple[CacheRow, int, int, int]] = []  # root, prefix_len, begin, end
        singles: list[_Single] = []
        begin = 0
        for chunk in chunks:
            row, end = chunk.row, begin + chunk.end - chunk.start
            own_start, own_end = chunk.start - row.prefix_len, chunk.end - row.prefix_len
            places.extend(range(row.region.start + own_start, row.region.start + own_end))
            if end - begin == 1:
                singles.append(_Single(row.region, own_end, begin))
            else:
                self.chunks.append(_Stretch(begin, end))
                if own_start:
                    self.past.append(_Stretch(begin, end, pool.views(row.region, 0, own_start)))
            if row.root is not None:
                if groups and (groups[-1][:2], groups[-1][3]) == (
                    (row.root, row.prefix_len),
                    begin,
                ):
                    groups[-1] = (*groups[-1][:3], end)
                else:
                    groups.append((row.root, row.prefix_len, begin, end))
            begin = end
        for root, prefix_len, group_begin, group_end in groups:
            views = pool.views(root.region, 0, prefix_len)
            self.past.append(_Stretch(group_begin, group_end, views))
        self.places = torch.tensor(places, device=pool.device)
        self.singles = [_singles(pool, run) for run in _equally_spaced(singles)]
        self.order: Tensor | None = None
        """If one call computes all: where it finds each of the batch's tokens."""
        if len(self.singles) == 1 and not self.chunks and not self.past:
            self.order = self.singles[0].tokens.argsort()


def _equally_spaced(singles: Sequence[_Single]) -> list[list[_Single]]:
    """Runs of rows whose regions are equally large and lie equally far apart."""
    runs: list[list[_Single]] = []
    for single in sorted(singles, key=lambda s: (s.region.capacity_tokens, s.region.start)):
        if runs and _goes_on(runs[-1], single):
            runs[-1].append(single)
        else:
            runs.append([single])
    return runs


def _goes_on(run: list[_Single], single: _Single) -> bool:
    regions = [s.region for s in (*run[-2:], single)]
    spacings = {b.start - a.start for a, b in itertools.pairwise(regions)}
    return len({r.capacity_tokens for r in regions}) == len(spacings) == 1


def _singles(pool: KvPool, run: list[_Single]) -> _Singles:
    regions, lengths, tokens = zip(*run, strict=True)
    longest = max(lengths)
    mask = None
    if min(lengths) < longest:
        is_behind = torch.arange(longest) >= torch.tensor(lengths)[:, None]
        mask = torch.zeros(is_behind.shape, dtype=pool.dtype).masked_fill_(is_behind, -torch.inf)
        mask = mask.to(pool.device)[:, None, None]
    places = torch.tensor(tokens, device=pool.device)
    return _Singles(places, pool.spaced_views(regions, longest), mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float,
    step: AttentionStep,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, T, D), key and value (1, kv heads, T, D) of the
    packed batch; returns (1, T, H, D). `step` arrives as a keyword argument of the model's call."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    keys_values = torch.cat([key[0], value[0]]).transpose(0, 1)
    return attend_packed(layer, query[0].transpose(0, 1), keys_values, scaling, step)[None], None


def attend_packed(
    layer: int, query: Tensor, keys_values: Tensor, scaling: float, step: AttentionStep
) -> Tensor:
    """The packed batch's queries (T, H, D), its keys and behind them its values (T, 2 kv heads, D) -> (T, H, D)."""
    step.pool.write(layer, step.places, keys_values)
    num_kv_heads = keys_values.shape[1] // 2
    # The query heads that share a kv head are neighbours, so that they read its keys together.
    by_token = query.view(len(query), num_kv_heads, -1, query.shape[-1])
    if step.order is not None:
        (rows,) = step.singles
        out, _ = _attend_single(layer, by_token, rows, scaling)
        return out.index_select(0, step.order).flatten(1, 2)
    result = torch.empty_like(by_token, memory_format=torch.contiguous_format)
    total = result.new_empty(result.shape[:-1], dtype=torch.float32)  # (T, kv heads, group)
    for own in step.chunks:
        span = slice(own.begin, own.end)
        key, value = keys_values[span].transpose(0, 1)[None].chunk(2, 1)
        chunk = (query[span].transpose(0, 1)[None], key, value)
        result[span], total[span] = _attend_causal(*chunk, scaling)
    for rows in step.singles:
        out, denominator = _attend_single(layer, by_token, rows, scaling)
        result.index_copy_(0, rows.tokens, out)
        total.index_copy_(0, rows.tokens, denominator)
    for past in step.past:
        span = slice(past.begin, past.end)
        k, v = past.views[2 * layer], past.views[2 * layer + 1]
        out, denominator = _attend_full(by_token[span], k, v, scaling)
        # The share of these keys in the joint softmax.
        share = torch.sigmoid(denominator - total[span])[..., None].to(out.dtype)
        result[span] += share * (out - result[span])
        total[span] = torch.logaddexp(total[span], denominator)
    return result.flatten(1, 2)


def _attend_single(
    layer: int, query: Tensor, rows: _Singles, scale: float
) -> tuple[Tensor, Tensor]:
    """Of the batch's queries (T, kv heads, group, D) those of the rows, each with its row's keys."""
    k, v = rows.views[2 * layer], rows.views[2 * layer + 1]
    return _softmax_attention(query.index_select(0, rows.tokens), k, v, scale, mask=rows.mask)


def _attend_full(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Each of the queries (n, kv heads, group, D) attends to every key (1, kv heads, m, D).

    All queries of a kv head are put in one row, so that its keys are read once.
    """
    n, num_kv_heads, group, head_dim = query.shape
    folded = query.transpose(0, 1).reshape(1, num_kv_heads, n * group, head_dim)
    out, denominator = _softmax_attention(folded, key, value, scale)
    return (
        out.view(num_kv_heads, n, group, head_dim).transpose(0, 1),
        denominator.view(num_kv_heads, n, group).transpose(0, 1),
    )


def _attend_causal(
    query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Query i (1, H, n, D) attends to keys 0..i (1, kv heads, n, D)."""
    num_kv_heads = key.shape[1]
    group = query.shape[1] // num_kv_heads
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    out, denominator = _softmax_attention(query, key, value, scale, is_causal=True)
    n = query.shape[2]
    return (
        out[0].transpose(0, 1).reshape(n, num_kv_heads, group, -1),
        denominator[0].T.reshape(n, num_kv_heads, group),
    )


def _softmax_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    is_causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention (B, H, n, D) and the log of its softmax's denominator (B, H, n), fp32.

    `mask` (B, 1, 1, m) is added to the scores of the m keys.
    """
    attend_with = _fused_attention if query.device.type == "cpu" else _plain_attention
    return attend_with(query, key, value, scale, is_causal, mask)


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    # The kernel behind scaled_dot_product_attention, which keeps the denominator to itself.
    out, denominator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=mask, scale=scale
    )
    return out, denominator


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    scores = torch.matmul(query, key.transpose(-2, -1)).float() * scale  # (B, H, n, m)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if mask is not None:
        scores = scores + mask
    denominator = scores.logsumexp(-1)
    probs = (scores - denominator[..., None]).exp().to(value.dtype)
    return torch.matmul(probs, value), denominator


def max_attended_tokens(config: PretrainedConfig) -> int:
    """The longest sequence that this attention computes as the model means it.

    Raises `UnsupportedModel` for attention of another kind.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModel(f"layers of type {', '.join(sorted(unknown))} are not supported")
    for name in ("attn_logit_softcapping", "attention_sinks"):
        if getattr(config, name, None):
            raise UnsupportedModel(f"attention with {name} is not supported")
    if config.is_encoder_decoder:
        raise UnsupportedModel("encoder-decoder models are not supported")
    limit: int = config.max_position_embeddings
    window: int | None = getattr(config, "sliding_window", None)
    is_used = "sliding_attention" in kinds or getattr(config, "use_sliding_window", True)
    # Within its window, sliding attention is full attention.
    return min(limit, window) if window is not None and is_used else limit


AttentionInterface.register(NAME, attend)
