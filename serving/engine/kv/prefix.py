"""A trained prefix: keys and values of virtual tokens that stand before every text of its model.

Its tokens have ids below zero, which no text has: so rows that begin with it are found and reused as any other, and
what embeds tokens never sees them, for they count as computed from the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KvPrefix:
    id: str
    keys_values: Tensor
    """(2 L, kv heads, V, head dim): [2l] are layer l's keys, [2l + 1] its values, as in the pool."""

    @classmethod
    def from_artifact(cls, id: str, keys_values: Tensor, dtype: torch.dtype) -> KvPrefix:
        """From (V, L, 2, kv heads, head dim)."""
        by_layer = keys_values.permute(1, 2, 3, 0, 4).flatten(0, 1)
        return cls(id, by_layer.to(dtype).contiguous())

    @property
    def num_tokens(self) -> int:
        return self.keys_values.shape[2]

    @property
    def token_ids(self) -> list[int]:
        return list(range(-1, -1 - self.num_tokens, -1))

    @property
    def size_bytes(self) -> int:
        return self.keys_values.numel() * self.keys_values.itemsize
