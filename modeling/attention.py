"""Attention over packed examples: several sequences end to end in one row, each seeing only itself.

Sequences that begin alike may share that beginning: its tokens come first in the row, once.

Registered with transformers as `NAME`, so that every supported decoder runs packed rows without knowing:

    model = load_base(path, precision=precision, attn_implementation=attention.NAME)
    with attention.segments(cu_seqlens):
        model(input_ids=row, position_ids=positions, use_cache=False)   # row (1, T)

On a GPU torch's own kernel for packed rows does the work where it can. On a CPU, short segments are
written out as matrix products, forward and backward: that beats `scaled_dot_product_attention` there,
somewhat in fp32 and severalfold in bf16. Long ones go through it, for memory's sake.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from .written_attention import Run, written_attention

NAME = "luthier_packed"
# The written-out form keeps the attention weights for backward: T/2 numbers per query and head.
MAX_WRITTEN_TOKENS = 512


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring runs that are computed the same way."""

    is_written: bool
    runs: tuple[Run, ...]

    @property
    def start(self) -> int:
        return self.runs[0].start

    @property
    def end(self) -> int:
        return self.runs[-1].end


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
        """Of the sequences, without what they share."""
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


# Not a context variable: recomputing a checkpointed layer happens on autograd's own thread.
_current: _Row | None = None


@contextmanager
def segments(cu_seqlens: Sequence[int], num_shared: int = 0) -> Iterator[None]:
    """Says where the sequences of the packed row lie while the model runs: offsets from `num_shared` to T.

    The row's first `num_shared` tokens are the beginning of every sequence. With gradient checkpointing,
    backward must run inside too.
    """
    global _current
    offsets = tuple(int(offset) for offset in cu_seqlens)
    grows = all(a < b for a, b in itertools.pairwise(offsets))
    if num_shared < 0 or not offsets or offsets[0] != num_shared or not grows:
        raise ValueError("cu_seqlens must start at num_shared and grow")
    previous, _current = _current, _Row(offsets, num_shared)
    try:
        yield
    finally:
        _current = previous


def packed_attention(
    module: nn.Module,  # noqa: ARG001 - transformers passes it
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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (row.spread(x) for x in (query, key, value))
    return row.gather(_attend(query, key, value, row.whole, scale, sliding_window)), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: tuple[int, ...],
    scale: float,
    window: int | None,
) -> Tensor:
    """By whichever way is best for the device and the lengths. (1, H, T, D) -> (1, T, H, D)."""
    if _has_varlen_kernel(query):
        return _varlen(query, key, value, offsets, scale, window)
    limit = 0
    if query.device.type == "cpu":
        limit = min(MAX_WRITTEN_TOKENS, window or MAX_WRITTEN_TOKENS)
    outputs = []
    for stretch in _stretches(offsets, limit):
        q, k, v = (x[:, :, stretch.start : stretch.end] for x in (query, key, value))
        if stretch.is_written:
            outputs.append(written_attention(q, k, v, scale, stretch.runs))
        else:
            for run in stretch.runs:
                outputs.append(_sdpa(q, k, v, run, stretch.start, scale, window))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    run: Run,
    origin: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """A run of equally long segments as one batch; the inputs start at token `origin`."""
    start, end = run.start - origin, run.end - origin
    # (1, H, B*T, D) -> (B, H, T, D)
    q, k, v = (
        x[0, :, start:end].reshape(x.shape[1], run.num, run.length, -1).transpose(0, 1)
        for x in (query, key, value)
    )
    mask = (
        _window_mask(run.length, window, query.device) if window and window < run.length else None
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
    return out.transpose(1, 2).flatten(0, 1).unsqueeze(0)  # (1, B*T, H, D)


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
def _stretches(offsets: tuple[int, ...], limit: int) -> tuple[_Stretch, ...]:
    """Neighbours of equal length become one run, runs up to `limit` tokens a segment one stretch."""
    runs: list[Run] = []
    for start, end in itertools.pairwise(offsets):
        length = end - start
        if runs and runs[-1].length == length:
            runs[-1] = Run(runs[-1].start, runs[-1].num + 1, length)
        else:
            runs.append(Run(start, 1, length))
    grouped = itertools.groupby(runs, key=lambda run: run.length <= limit)
    return tuple(_Stretch(is_written, tuple(group)) for is_written, group in grouped)


AttentionInterface.register(NAME, packed_attention)
