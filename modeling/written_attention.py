"""Causal attention within sequences, written out as batched matrix products with its own backward.

Sequences of similar length are padded to one length and computed together: at the ends, so that the causal
mask hides the padding too. Queries are cut into tiles, so the half of the products that the mask would
throw away is mostly never computed. The heads that share a key head are rows of one product, so keys are
never repeated.

Dimensions: T tokens, N sequences padded to L tokens each, K key heads, G query heads per key head, D per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

TILE_TOKENS = 128


class Repeated(NamedTuple):
    """Where a group has tokens that several sequences begin with, besides where it owns them."""

    start: int  # of its tokens in the row
    end: int
    at: int  # where they are in each sequence
    first: int  # of the group's sequences that have them
    last: int  # of them, and one more


class Group(NamedTuple):
    """Sequences that are computed together, and where their tokens are: N*L places."""

    num: int
    length: int
    tokens: Tensor  # (N*L,) which of the row's tokens is at each place; padding repeats a sequence's last one
    places: Tensor  # (n,) where the tokens are whose attention this group computes, each once
    owned: Tensor  # (n,) those tokens
    repeated: tuple[Repeated, ...]  # of what its sequences begin with

    def lay_out(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N*L, ...)"""
        return x.index_select(0, self.tokens)

    def lay_out_owned(self, x: Tensor) -> Tensor:
        """(T, ...) -> (N*L, ...), zeros elsewhere."""
        placed = x.new_zeros(len(self.tokens), *x.shape[1:])
        return placed.index_copy_(0, self.places, x.index_select(0, self.owned))

    def take_back(self, laid_out: Tensor, target: Tensor) -> None:
        """(N*L, ...) -> (T, ...), the inverse for the tokens that the group owns."""
        target.index_copy_(0, self.owned, laid_out.index_select(0, self.places))

    def add_back_repeated(self, laid_out: Tensor, target: Tensor) -> None:
        """Adds what copies of tokens got, after `take_back` of the group that owns them."""
        by_sequence = laid_out.view(self.num, self.length, *laid_out.shape[1:])
        for start, end, at, first, last in self.repeated:
            target[start:end] += by_sequence[first:last, at : at + end - start].sum(0)


def written_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, groups: Sequence[Group]
) -> Tensor:
    """query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D), zeros where no group owns a token.

    A group that owns tokens comes before those that have copies of them.
    """
    out: Tensor = _WrittenAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, scale, tuple(groups)
    )
    return out


class _WrittenAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, groups: tuple[Group, ...]
    ) -> Tensor:
        _, num_heads, num_tokens, head_dim = query.shape
        out = query.new_zeros(num_tokens, num_heads, head_dim)
        num_kv_heads = key.shape[1]
        heads = num_heads // num_kv_heads
        precise = torch.promote_types(query.dtype, torch.float32)
        saved: list[Tensor] = []
        for group in groups:
            q, k, v = (
                _fold(group.lay_out(x[0].transpose(0, 1)), num_kv_heads, group)
                for x in (query, key, value)
            )
            o = torch.empty_like(q)
            saved += (q, k, v)
            for start, end in _tiles(group.length):
                rows = slice(start * heads, end * heads)
                mask = _causal_mask(start, end, heads, q.dtype, q.device)
                scores = torch.baddbmm(mask, q[:, rows], k[:, :end].transpose(1, 2), alpha=scale)
                weights = torch.softmax(scores, -1, dtype=precise).to(q.dtype)
                torch.bmm(weights, v[:, :end], out=o[:, rows])
                saved.append(weights)
            group.take_back(_unfold(o, group), out)
        ctx.save_for_backward(*saved)
        ctx.shape = out.shape
        ctx.scale, ctx.groups, ctx.num_kv_heads = scale, groups, num_kv_heads
        return out.unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_out = grads[0][0]  # (T, H, D)
        num_tokens, num_heads, head_dim = ctx.shape
        heads = num_heads // ctx.num_kv_heads
        grad_query = torch.zeros_like(grad_out)
        grad_key = grad_out.new_zeros(num_tokens, ctx.num_kv_heads, head_dim)
        grad_value = torch.zeros_like(grad_key)
        remaining = iter(ctx.saved_tensors)
        for group in ctx.groups:
            q, k, v = next(remaining), next(remaining), next(remaining)
            g = _fold(group.lay_out_owned(grad_out), ctx.num_kv_heads, group)
            grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
            for start, end in _tiles(group.length):
                rows = slice(start * heads, end * heads)
                weights = next(remaining)
                grad_v[:, :end].baddbmm_(weights.transpose(1, 2), g[:, rows])
                grad_weights = torch.bmm(g[:, rows], v[:, :end].transpose(1, 2))
                grad_scores = torch.ops.aten._softmax_backward_data(
                    grad_weights, weights, -1, weights.dtype
                )
                grad_q[:, rows].baddbmm_(grad_scores, k[:, :end], beta=0, alpha=ctx.scale)
                grad_k[:, :end].baddbmm_(grad_scores.transpose(1, 2), q[:, rows], alpha=ctx.scale)
            group.take_back(_unfold(grad_q, group), grad_query)
            for target, grad in ((grad_key, grad_k), (grad_value, grad_v)):
                laid_out = _unfold(grad, group)
                group.take_back(laid_out, target)
                group.add_back_repeated(laid_out, target)
        by_head = (x.transpose(0, 1).unsqueeze(0) for x in (grad_query, grad_key, grad_value))
        return (*by_head, None, None)


def _tiles(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, TILE_TOKENS):
        yield start, min(start + TILE_TOKENS, length)


def _fold(x: Tensor, num_kv_heads: int, group: Group) -> Tensor:
    """(N*L, K*G, D) -> (N*K, L*G, D): the heads of a key head become rows, tokens first."""
    by_kv_head = x.view(group.num, group.length, num_kv_heads, -1, x.shape[2])
    return by_kv_head.transpose(1, 2).reshape(group.num * num_kv_heads, -1, x.shape[2])


def _unfold(folded: Tensor, group: Group) -> Tensor:
    """The inverse of `_fold`."""
    head_dim = folded.shape[2]
    heads = folded.shape[1] // group.length
    by_kv_head = folded.view(group.num, -1, group.length, heads, head_dim)
    return by_kv_head.transpose(1, 2).reshape(group.num * group.length, -1, head_dim)


@lru_cache(maxsize=1024)
def _causal_mask(
    start: int, end: int, heads: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(1, (end-start)*G, end): 0 where a query of the tile sees a key, -inf where it does not."""
    queries = torch.arange(start, end, device=device).repeat_interleave(heads)
    is_hidden = torch.arange(end, device=device) > queries[:, None]
    mask = torch.zeros(1, *is_hidden.shape, dtype=dtype, device=device)
    return mask.masked_fill_(is_hidden, float("-inf"))
