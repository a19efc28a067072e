"""Causal attention within segments, written out as batched matrix products with its own backward.

Queries are cut into tiles, so the half of the products that a causal mask would throw away is mostly
never computed. The heads that share a key head are rows of one product, so keys are never repeated.

Dimensions: N segments of one length, L tokens in each, K key heads, G query heads per key head, D per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE_TOKENS = 128


class Run(NamedTuple):
    """`num` segments of `length` tokens each, one behind the other from token `start`."""

    start: int
    num: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.num * self.length


def written_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, runs: Sequence[Run]
) -> Tensor:
    """query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D). `runs` cover all T tokens; their
    starts may count from anywhere."""
    out: Tensor = _WrittenAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, scale, tuple(runs)
    )
    return out


class _WrittenAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, runs: tuple[Run, ...]
    ) -> Tensor:
        _, num_heads, num_tokens, head_dim = query.shape
        out = query.new_empty(num_tokens, num_heads, head_dim)
        group = num_heads // key.shape[1]
        precise = torch.promote_types(query.dtype, torch.float32)
        saved: list[Tensor] = []
        for run, part in _parts(runs):
            q, k, v = (
                _fold(x[0, :, part].transpose(0, 1), key.shape[1], run) for x in (query, key, value)
            )
            o = torch.empty_like(q)
            saved += (q, k, v)
            for start, end in _tiles(run.length):
                rows = slice(start * group, end * group)
                mask = _causal_mask(start, end, group, q.dtype, q.device)
                scores = torch.baddbmm(mask, q[:, rows], k[:, :end].transpose(1, 2), alpha=scale)
                weights = torch.softmax(scores, -1, dtype=precise).to(q.dtype)
                torch.bmm(weights, v[:, :end], out=o[:, rows])
                saved.append(weights)
            _unfold_into(out[part], o, run)
        ctx.save_for_backward(out, *saved)
        ctx.scale, ctx.runs, ctx.num_kv_heads = scale, runs, key.shape[1]
        return out.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out, *saved = ctx.saved_tensors
        grad_out = grads[0][0]  # (T, H, D)
        num_tokens, num_heads, head_dim = out.shape
        group = num_heads // ctx.num_kv_heads
        grad_query = torch.empty_like(out)
        grad_key = out.new_empty(num_tokens, ctx.num_kv_heads, head_dim)
        grad_value = torch.empty_like(grad_key)
        # Softmax's backward needs sum(weights * grad_weights) per query, which is sum(out * grad_out).
        sums = (out * grad_out).sum(-1, keepdim=True)  # (T, H, 1)
        remaining = iter(saved)
        for run, part in _parts(ctx.runs):
            q, k, v = next(remaining), next(remaining), next(remaining)
            g = _fold(grad_out[part], ctx.num_kv_heads, run)
            s = _fold(sums[part], ctx.num_kv_heads, run)
            grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for start, end in _tiles(run.length):
                rows = slice(start * group, end * group)
                weights = next(remaining)
                grad_v[:, :end].baddbmm_(weights.transpose(1, 2), g[:, rows])
                grad_scores = torch.bmm(g[:, rows], v[:, :end].transpose(1, 2))
                grad_scores.sub_(s[:, rows]).mul_(weights)
                grad_q[:, rows].baddbmm_(grad_scores, k[:, :end], beta=0, alpha=ctx.scale)
                grad_k[:, :end].baddbmm_(grad_scores.transpose(1, 2), q[:, rows], alpha=ctx.scale)
            for target, grad in ((grad_query, grad_q), (grad_key, grad_k), (grad_value, grad_v)):
                _unfold_into(target[part], grad, run)
        by_head = (x.transpose(0, 1).unsqueeze(0) for x in (grad_query, grad_key, grad_value))
        return (*by_head, None, None)


def _parts(runs: Sequence[Run]) -> Iterator[tuple[Run, slice]]:
    """Each run with its place among the tokens of all of them."""
    origin = runs[0].start
    for run in runs:
        yield run, slice(run.start - origin, run.end - origin)


def _tiles(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, TILE_TOKENS):
        yield start, min(start + TILE_TOKENS, length)


def _fold(x: Tensor, num_kv_heads: int, run: Run) -> Tensor:
    """(N*L, K*G, D) -> (N*K, L*G, D): the heads of a group become rows, tokens first."""
    shape = (run.num, run.length, num_kv_heads, x.shape[1] // num_kv_heads, x.shape[2])
    by_kv_head = x.view(shape).permute(0, 2, 1, 3, 4)
    return by_kv_head.reshape(run.num * num_kv_heads, -1, x.shape[2])


def _unfold_into(target: Tensor, folded: Tensor, run: Run) -> None:
    """The inverse of `_fold`, written into `target` (N*L, K*G, D)."""
    num_kv_heads = folded.shape[0] // run.num
    group = target.shape[1] // num_kv_heads
    by_segment = target.view(run.num, run.length, num_kv_heads, group, target.shape[2])
    by_kv_head = folded.view(run.num, num_kv_heads, run.length, group, target.shape[2])
    by_segment.copy_(by_kv_head.transpose(1, 2))


@lru_cache(maxsize=1024)
def _causal_mask(
    start: int, end: int, group: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(1, (end-start)*G, end): 0 where a query of the tile sees a key, -inf where it does not."""
    queries = torch.arange(start, end, device=device).repeat_interleave(group)
    is_hidden = torch.arange(end, device=device) > queries[:, None]
    mask = torch.zeros(1, *is_hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(is_hidden, float("-inf"))
