"""The memory for keys and values: one tensor, cut into contiguous regions that can grow.

A region is contiguous so that attention reads it as a plain view, without gathering pages. Regions
start and end at page borders, so finding room is a search in a string of page flags. Pages are large
enough that most regions are equally large and lie equally far apart: one view then shows many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from modeling.base import head_dim

PAGE_TOKENS = 128


@dataclass(eq=False, slots=True)
class Region:
    """Room for the keys and values of `capacity_tokens` tokens, beginning at `start` in the pool."""

    start: int
    capacity_tokens: int


class KvPool:
    """Keys and values of every layer. On the CPU the system hands out the memory page by page as it is
    first written, so an idle pool costs nothing."""

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        size_bytes: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_layers: int = config.num_hidden_layers
        num_kv_heads: int = config.num_key_value_heads
        size = head_dim(config)
        self.bytes_per_token = 2 * self.num_layers * num_kv_heads * size * dtype.itemsize
        num_pages = max(1, size_bytes // (self.bytes_per_token * PAGE_TOKENS))
        self.num_tokens = num_pages * PAGE_TOKENS
        # [2l] are layer l's keys, [2l + 1] its values.
        self._tensor = torch.empty(
            (2 * self.num_layers, num_kv_heads, self.num_tokens, size),
            dtype=dtype,
            device=device,
        )
        # By layer, its keys and behind them its values: (2 kv heads, tokens, head dim).
        self._layers = self._tensor.view(
            self.num_layers, 2 * num_kv_heads, self.num_tokens, size
        ).unbind(0)
        self.dtype = dtype
        self.device = device
        self._used = bytearray(num_pages)

    @property
    def num_used_tokens(self) -> int:
        return self._used.count(1) * PAGE_TOKENS

    def allocate(self, num_tokens: int) -> Region | None:
        """A region of zeros for at least `num_tokens`, or None if no gap is large enough."""
        num_pages = _pages(num_tokens)
        first = self._used.find(bytes(num_pages))
        if first < 0:
            return None
        self._take(first, num_pages)
        return Region(first * PAGE_TOKENS, num_pages * PAGE_TOKENS)

    def grow(self, region: Region, num_tokens: int, *, num_kept_tokens: int) -> bool:
        """Make room for `num_tokens` in place, or by moving the first `num_kept_tokens` elsewhere.

        False if neither is possible; the region is then as it was.
        """
        if num_tokens <= region.capacity_tokens:
            return True
        end = (region.start + region.capacity_tokens) // PAGE_TOKENS
        num_more = _pages(num_tokens) - region.capacity_tokens // PAGE_TOKENS
        if self._used[end : end + num_more] == bytes(num_more):
            self._take(end, num_more)
            region.capacity_tokens += num_more * PAGE_TOKENS
            return True
        moved = self.allocate(num_tokens)
        if moved is None:
            return self._slide(region, num_tokens, num_kept_tokens)
        self.copy(region, 0, moved, 0, num_kept_tokens)
        self.free(region)
        region.start, region.capacity_tokens = moved.start, moved.capacity_tokens
        return True

    def _slide(self, region: Region, num_tokens: int, num_kept_tokens: int) -> bool:
        """Move the region to the start of the gap around it, if that gap is large enough.

        What a region of more than half the pool needs to grow: elsewhere there is never room for it.
        """
        first, num_own = region.start // PAGE_TOKENS, region.capacity_tokens // PAGE_TOKENS
        start = self._used.rfind(1, 0, first) + 1
        num_pages = _pages(num_tokens)
        behind = self._used[first + num_own : start + num_pages]
        if start + num_pages > len(self._used) or any(behind):
            return False
        read = region.start
        # A copy, since the old place and the new one may overlap.
        kept = self._tensor[:, :, read : read + num_kept_tokens].clone()
        self.free(region)
        self._take(start, num_pages)
        region.start, region.capacity_tokens = start * PAGE_TOKENS, num_pages * PAGE_TOKENS
        self._tensor[:, :, region.start : region.start + num_kept_tokens] = kept
        return True

    def free(self, region: Region) -> None:
        self._mark(region.start // PAGE_TOKENS, region.capacity_tokens // PAGE_TOKENS, 0)

    def shrink(self, region: Region, num_tokens: int) -> None:
        """Give back the pages behind the first `num_tokens`; one page stays at least."""
        num_pages = _pages(num_tokens)
        num_freed = region.capacity_tokens // PAGE_TOKENS - num_pages
        self._mark(region.start // PAGE_TOKENS + num_pages, num_freed, 0)
        region.capacity_tokens = num_pages * PAGE_TOKENS

    def copy(
        self, source: Region, source_from: int, target: Region, target_from: int, num_tokens: int
    ) -> None:
        """Copy `num_tokens` in all layers, from an offset in one region to an offset in another."""
        read = source.start + source_from
        write = target.start + target_from
        self._tensor[:, :, write : write + num_tokens] = self._tensor[
            :, :, read : read + num_tokens
        ]

    def fill(self, region: Region, keys_values: Tensor) -> None:
        """Put keys and values of all layers (2 L, kv heads, n, head dim) at the beginning of a region."""
        end = region.start + keys_values.shape[2]
        self._tensor[:, :, region.start : end] = keys_values.to(self.device)

    def views(self, region: Region, start: int, end: int) -> tuple[Tensor, ...]:
        """Offsets start..end of a region: [2l] layer l's keys, [2l + 1] its values, (1, kv heads, n, head dim)."""
        return self._tensor[:, None, :, region.start + start : region.start + end].unbind(0)

    def spaced_views(self, regions: Sequence[Region], num_tokens: int) -> tuple[Tensor, ...]:
        """The first `num_tokens` of regions that lie equally far apart: as `views`, (n, kv heads, n tokens, head dim)."""
        first = regions[0].start
        spacing = regions[1].start - first if len(regions) > 1 else 0
        layer, head, token, number = self._tensor.stride()
        shape = (len(self._tensor), len(regions), self._tensor.shape[1], num_tokens)
        strides = (layer, spacing * token, head, token, number)
        return self._tensor.as_strided(
            (*shape, self._tensor.shape[-1]), strides, first * token
        ).unbind(0)

    def write(self, layer: int, places: Tensor, keys_values: Tensor) -> None:
        """Put keys and behind them values (T, 2 kv heads, head dim) at `places` (T,), positions in the pool."""
        self._layers[layer].index_copy_(1, places, keys_values.transpose(0, 1))

    def _take(self, first: int, num_pages: int) -> None:
        self._mark(first, num_pages, 1)
        # Keys behind a row's end are masked, so their weight is 0, but 0 times NaN is NaN: what a
        # stranger's broken adapter left here must not reach this row.
        self._tensor[:, :, first * PAGE_TOKENS : (first + num_pages) * PAGE_TOKENS] = 0

    def _mark(self, first: int, num_pages: int, flag: int) -> None:
        self._used[first : first + num_pages] = bytes([flag]) * num_pages


def _pages(num_tokens: int) -> int:
    return max(1, -(-num_tokens // PAGE_TOKENS))
