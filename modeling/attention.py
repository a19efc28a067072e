"""Attention over packed examples: several sequences end to end in one row, each seeing only itself.

Sequences that begin alike may share that beginning: its tokens are in the row once, see `Layout`.

A prefix may stand before all of them: keys and values of its own in place of those of the row's first tokens.

Registered with transformers as `NAME`, so that every supported decoder runs packed rows without knowing:

    model = load_base(path, precision=precision, attn_implementation=attention.NAME)
    with attention.segments(Layout.of_lengths(lengths)):
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
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from .layout import NONE, Layout
from .written_attention import Group, Repeated, written_attention

NAME = "luthier_packed"
# The written-out form keeps the attention weights for backward: T/2 numbers per query and head.
MAX_WRITTEN_TOKENS = 512
# A segment is padded by at most so many tokens, or a quarter of the longest one beside it.
MAX_PADDING_TOKENS = 64


@lru_cache(maxsize=8)
def _first_places(layout: Layout, device: torch.device) -> Tensor:
    return layout.first_places.to(device)


Prefix = Sequence[Tensor]
"""For each layer keys and values (2, KV, V, D) that stand in place of those of the row's first V tokens."""

# Not context variables: recomputing a checkpointed layer happens on autograd's own thread.
_current: Layout | None = None
_prefix: Prefix | None = None


@contextmanager
def segments(layout: Layout, prefix: Prefix | None = None) -> Iterator[None]:
    """Says where the sequences of the packed row lie while the model runs.

    The tokens of a prefix are the first segment's, from which everything goes on.
    """
    global _current, _prefix
    if prefix and (prefix[0].shape[2] > layout.lengths[0] or NONE in layout.parents[1:]):
        raise ValueError("the tokens of a prefix must be among those that all sequences share")
    previous = _current, _prefix
    _current, _prefix = layout, prefix
    try:
        yield
    finally:
        _current, _prefix = previous


def held() -> AbstractContextManager[None]:
    """What `segments` says now, to be said once more when a layer is computed again. Raises RuntimeError outside."""
    if _current is None:
        raise RuntimeError("there are no segments to hold")
    return segments(_current, _prefix)


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
            "packed attention needs `with attention.segments(layout)` around the model"
        )
    layout = _current
    if query.shape[0] != 1 or query.shape[2] != layout.num_tokens:
        raise ValueError(
            f"a packed row of {layout.num_tokens} tokens must have shape (1, T), not {query.shape}"
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
        # It knows sequences that are whole: what they share it gets, and computes, once for each.
        query, key, value = (layout.spread(x) for x in (query, key, value))
        out = _varlen(query, key, value, layout.sequence_offsets, scale, sliding_window)
        if layout.is_shared:
            out = out.index_select(1, _first_places(layout, out.device))
        return out, None
    return _attend_in_groups(query, key, value, layout, scale, sliding_window), None


def _with_beginning(x: Tensor, beginning: Tensor) -> Tensor:
    """(1, KV, T, D) with its first V tokens replaced by `beginning` (KV, V, D)."""
    num_tokens = beginning.shape[1]
    return torch.cat([beginning.to(x.dtype).unsqueeze(0), x[:, :, num_tokens:]], dim=2)


def _attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None
) -> Tensor:
    """query (1, H, T, D), key and value (1, KV, T, D) -> (1, T, H, D)"""
    limit = 0
    if query.device.type == "cpu":
        limit = min(MAX_WRITTEN_TOKENS, window or MAX_WRITTEN_TOKENS)
    groups = _groups(layout, limit, query.device)
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
def _groups(layout: Layout, limit: int, device: torch.device) -> tuple[Group, ...]:
    """The row's sequences by similar length; those of at most `limit` tokens come first, by themselves."""
    lengths = layout.sequence_lengths
    longest_first = sorted(
        range(len(lengths)), key=lambda index: (lengths[index] > limit, -lengths[index], index)
    )
    members: list[list[int]] = []
    for index in longest_first:
        longest = lengths[members[-1][0]] if members else 0
        padding = longest - lengths[index]
        # Negative at the first sequence and where the long ones begin.
        if 0 <= padding <= max(MAX_PADDING_TOKENS, longest // 4):
            members[-1].append(index)
        else:
            members.append([index])
    has_owner: set[int] = set()
    return tuple(_group(layout, indices, device, has_owner) for indices in members)


def _group(
    layout: Layout, indices: Sequence[int], device: torch.device, has_owner: set[int]
) -> Group:
    """Of the sequences of those numbers. It owns what has no owner yet, which then has one."""
    # Side by side lies what goes on from one segment.
    paths = [layout.paths[index] for index in sorted(indices)]
    length = max(layout.sequence_lengths[index] for index in indices)
    tokens, places, owned = [], [], []
    repeated: dict[int, Repeated] = {}
    for number, path in enumerate(paths):
        of_path = layout.tokens(path)
        tokens += [of_path, of_path[-1].expand(length - len(of_path))]
        at = 0
        for each in path:
            end = at + layout.lengths[each]
            if each not in has_owner:
                has_owner.add(each)
                owned.append(layout.tokens([each]))
                places.append(torch.arange(number * length + at, number * length + end))
            else:
                where = layout.offsets[each], layout.offsets[each + 1]
                first = repeated[each].first if each in repeated else number
                repeated[each] = Repeated(*where, at, first, number + 1)
            at = end
    return Group(
        num=len(paths),
        length=length,
        tokens=torch.cat(tokens).to(device),
        places=torch.cat(places).to(device),
        owned=torch.cat(owned).to(device),
        repeated=tuple(repeated.values()),
    )


AttentionInterface.register(NAME, packed_attention)
