"""Attention over packed examples: several sequences end to end in one row, each seeing only itself.

Sequences that begin alike may share that beginning: its tokens come first in the row, once.

A prefix may stand there too: keys and values of its own in place of those of the first shared tokens.

Registered with transformers as `NAME`, so that every supported decoder runs packed rows without knowing:

    model = load_base(path, precision=precision, attn_implementation=attention.NAME)
    with attention.segments(cu_seqlens):
        model(input_ids=row, position_ids=positions, use_cache=False)   # row (1, T)

On a GPU torch's own kernel for packed rows does the work where it can. Elsewhere segments of similar length
are padded and computed together. On a CPU, short ones are written out as matrix products, forward and
backward: that beats `scaled_dot_product_attention` there, somewhat in fp32 and severalfold in bf16. Long
ones go through it, for memory's sake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from .written_attention import Group, written_attention

NAME = "luthier_packed"
# The written-out form keeps the attention weights for backward: T/2 numbers per query and head.
MAX_WRITTEN_TOKENS = 512
# A segment is padded by at most so many tokens, or a quarter of the longest one beside it.
MAX_PADDING_TOKENS = 64


@dataclass(frozen=True)
class _Row:
    """Where the sequences of the packed row lie."""

    cu_seqlens: tuple[int, ...]
    num_shared: int

    @property
    def num_tokens(self) -> int:
        return self.cu_seqlens[-1]

    # Once for all the layers that ask.
    @cached_property
    def lengths(self) -> list[int]:
        """The lengths of the sequences, without what they share."""
        return [end - start for start, end in itertools.pairwise(self.cu_seqlens)]

    @cached_property
    def whole(self) -> tuple[int, ...]:
        """Where the sequences lie once each has the shared tokens to itself."""
        return tuple(itertools.accumulate((self.num_shared + n for n in self.lengths), initial=0))

    def spread(self, x: Tensor) -> Tensor:
        """(1, H, T, D) -> (1, H, W, D): a copy of the shared tokens before each sequence."""
        if not self.num_shared:
            return x
        shared, *own = torch.split(x, [self.num_shared, *self.lengths], dim=2)
        return torch.cat([piece for each in own for piece in (shared, each)], dim=2)

    def gather(self, x: Tensor) -> Tensor:
        """(1, W, H, D) -> (1, T, H, D): the inverse of `spread`."""
        if not self.num_shared:
            return x
        return x.index_select(1, _kept(self, x.device))


@lru_cache(maxsize=8)
def _kept(row: _Row, device: torch.device) -> Tensor:
    """(T,) the places of the row's tokens among the spread ones: the shared tokens' first copy stands for all."""
    pieces = [torch.arange(row.num_shared)]
    for start, end in itertools.pairwise(row.whole):
        pieces.append(torch.arange(start + row.num_shared, end))
    return torch.cat(pieces).to(device)


Prefix = Sequence[Tensor]
"""For each layer keys and values (2, KV, V, D) that stand in place of those of the row's first V tokens."""

# Not context variables: recomputing a checkpointed layer happens on autograd's own thread.
_current: _Row | None = None
_prefix: Prefix | None = None


@contextmanager
def segments(
    cu_seqlens: Sequence[int], num_shared: int = 0, prefix: Prefix | None = None
) -> Iterator[None]:
    """Says where the sequences of the packed row lie while the model runs: offsets from `num_shared` to T.

    The row's first `num_shared` tokens are the beginning of every sequence; those of a prefix are among them.
    """
    global _current, _prefix
    offsets = tuple(int(offset) for offset in cu_seqlens)
    grows = all(a < b for a, b in itertools.pairwise(offsets))
    if num_shared < 0 or not offsets or offsets[0] != num_shared or not grows:
        raise ValueError("cu_seqlens must start at num_shared and grow")
    if prefix and prefix[0].shape[2] > num_shared:
        raise ValueError("the tokens of a prefix must be among the shared ones")
    previous = _current, _prefix
    _current, _prefix = _Row(offsets, num_shared), prefix
    try:
        yield
    finally:
        _current, _prefix = previous


def held() -> AbstractContextManager[None]:
    """What `segments` says now, to be said once more when a layer is computed again. Raises RuntimeError outside."""
    if _current is None:
        raise RuntimeError("there are no segments to hold")
    return segments(_current.cu_seqlens, _current.num_shared, _prefix)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls. query (1, H, T, D), key and value (1, KV, T, D) -> (1, T, H, D)."""
    if _current is None:
        raise RuntimeError(
            "packed attention needs `with attention.segments(cu_seqlens)` around the model"
        )
    row = _current
    if query.shape[0] != 1 or query.shape[2] != row.num_tokens:
        raise ValueError(
            f"a packed row of {row.num_tokens} tokens must have shape (1, T), not {query.shape}"
        )
    if attention_mask is not None or dropout:
        raise ValueError("packed attention takes neither a mask nor dropout")
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ValueError("packed attention knows no soft cap and no attention sinks")
    if _prefix is not None:
        layer: Any = module.layer_idx
        keys, values = _prefix[layer]
        key, value = _with_beginning(key, keys), _with_beginning(value, values)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if _has_varlen_kernel(query):
        query, key, value = (row.spread(x) for x in (query, key, value))
        return row.gather(_varlen(query, key, value, row.whole, scale, sliding_window)), None
    return _attend_in_groups(query, key, value, row, scale, sliding_window), None


def _with_beginning(x: Tensor, beginning: Tensor) -> Tensor:
    """(1, KV, T, D) with its first V tokens replaced by `beginning` (KV, V, D)."""
    num_tokens = beginning.shape[1]
    return torch.cat([beginning.to(x.dtype).unsqueeze(0), x[:, :, num_tokens:]], dim=2)


def _attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, row: _Row, scale: float, window: int | None
) -> Tensor:
    """query (1, H, T, D), key and value (1, KV, T, D) -> (1, T, H, D)"""
    limit = 0
    if query.device.type == "cpu":
        limit = min(MAX_WRITTEN_TOKENS, window or MAX_WRITTEN_TOKENS)
    groups = _groups(row, limit, query.device)
    short = [group for group in groups if group.length <= limit]
    out = written_attention(query, key, value, scale, short)
    for group in groups[len(short) :]:
        out = out.index_copy(1, group.owned, _sdpa(query, key, value, group, scale, window))
    return out


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, group: Group, scale: float, window: int | None
) -> Tensor:
    """What the group owns: (1, n, H, D)."""
    # (1, H, T, D) -> (N, H, L, D)
    q, k, v = (
        group.lay_out(x[0].transpose(0, 1))
        .view(group.num, group.length, x.shape[1], x.shape[3])
        .transpose(1, 2)
        for x in (query, key, value)
    )
    mask = (
        _window_mask(group.length, window, query.device)
        if window and window < group.length
        else None
    )
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1).index_select(0, group.places).unsqueeze(0)


def _window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """(T, T), true where a query sees a key: itself and the `window` - 1 tokens before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def _has_varlen_kernel(query: Tensor) -> bool:
    """torch 2.12 and newer has one for half precision on Ampere and newer."""
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(query.device)[0] >= 8
        and tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 12)
    )


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: tuple[int, ...],
    scale: float,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=query.device)
    longest = max(b - a for a, b in itertools.pairwise(offsets))
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # (T, H, D)
    out = varlen_attn(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)  # a tuple only where auxiliary results are asked for
    return out.unsqueeze(0)


@lru_cache(maxsize=8)
def _groups(row: _Row, limit: int, device: torch.device) -> tuple[Group, ...]:
    """The row's segments by similar length; those of at most `limit` tokens come first, by themselves."""
    lengths = [row.num_shared + length for length in row.lengths]
    longest_first = sorted(
        range(len(lengths)), key=lambda index: (lengths[index] > limit, -lengths[index], index)
    )
    members: list[list[int]] = []
    for index in longest_first:
        longest = lengths[members[-1][0]] if members else 0
        padding = longest - lengths[index]
        # Negative at the first segment and where the long ones begin.
        if 0 <= padding <= max(MAX_PADDING_TOKENS, longest // 4):
            members[-1].append(index)
        else:
            members.append([index])
    return tuple(
        _group(row, [row.cu_seqlens[i : i + 2] for i in indices], device, owns_shared=number == 0)
        for number, indices in enumerate(members)
    )


def _group(
    row: _Row, segments: Sequence[Sequence[int]], device: torch.device, *, owns_shared: bool
) -> Group:
    """The group of segments that are given by where their own tokens start and end."""
    shared = torch.arange(row.num_shared)
    length = row.num_shared + max(end - start for start, end in segments)
    tokens, places, owned = [], [], []
    for number, (start, end) in enumerate(segments):
        own = torch.arange(start, end)
        is_owner = owns_shared and number == 0
        owned.append(torch.cat([shared, own]) if is_owner else own)
        first = number * length + (0 if is_owner else row.num_shared)
        places.append(torch.arange(first, first + len(owned[-1])))
        padding = own[-1].expand(length - row.num_shared - len(own))
        tokens += [shared, own, padding]
    return Group(
        num=len(segments),
        length=length,
        tokens=torch.cat(tokens).to(device),
        places=torch.cat(places).to(device),
        owned=torch.cat(owned).to(device),
        num_shared=row.num_shared,
        owns_shared=owns_shared,
    )


AttentionInterface.register(NAME, packed_attention)
