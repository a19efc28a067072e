"""What an adapter adds to the layers that the base computes as one, and where tables of it hold what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """x @ a gives a narrow product for each of the layers, side by side; with its own b it is what that layer gains."""

    a: Tensor
    """(in, sum of ranks)"""
    bs: tuple[Tensor, ...]
    """(rank, out) of each layer, the scale folded in; of no rank where the adapter leaves the layer as it is."""

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        layers: Mapping[str, tuple[Tensor, Tensor, float]],
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
    ) -> LowRank:
        """Of the layers `names`, of which the adapter has some: PEFT's A (rank, in), B (out, rank) and the scale.

        `shapes` are the base's, (out, in).
        """
        a = torch.cat([layers[name][0] for name in names if name in layers]).T
        bs = [
            layers[name][1].T * layers[name][2]
            if name in layers
            else torch.empty(0, shapes[name][0])
            for name in names
        ]
        return cls(a.to(dtype).contiguous(), tuple(b.to(dtype).contiguous() for b in bs))

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(len(b) for b in self.bs)

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.itemsize for t in (self.a, *self.bs))

    def times(self, strength: float) -> LowRank:
        return LowRank(self.a, tuple(b * strength for b in self.bs))

    def to(self, device: torch.device) -> LowRank:
        return LowRank(self.a.to(device), tuple(b.to(device) for b in self.bs))


@lru_cache(maxsize=64)
def b_rows(
    ranks: tuple[int, ...], sizes: tuple[int, ...], unit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """How the outputs of all layers are summed up from rows of `unit` numbers, if the bs lie one behind the other.

    Gives for each unit of the outputs in turn the rows, the places in the narrow products of what they are multiplied
    by, and (one for each unit) how many they are.
    """
    rows: list[Tensor] = []
    places: list[Tensor] = []
    numbers: list[int] = []
    first_row = first_place = 0
    for rank, size in zip(ranks, sizes, strict=True):
        num_units = size // unit
        of_unit = torch.arange(num_units)[:, None]
        of_rank = torch.arange(rank)
        rows.append((first_row + of_rank * num_units + of_unit).flatten())
        places.append((first_place + of_rank).repeat(num_units))
        numbers += [rank] * num_units
        first_row += rank * num_units
        first_place += rank
    return torch.cat(rows), torch.cat(places), torch.tensor(numbers)
