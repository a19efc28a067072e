"""Where sequences lie in a packed row: in segments, of which those that several sequences begin with are there once.

Each segment goes on from its parent, so a sequence is a segment that nothing goes on from, behind all that it goes on
from. Two answers to one prompt are three segments; sequences that have nothing in common are one each.

Dimensions: T tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NONE = -1


@dataclass(frozen=True)
class Layout:
    """Segments end to end, each behind its parent and before what goes on from others. Raises ValueError if not so."""

    offsets: tuple[int, ...]
    """Where the segments start, and T."""
    parents: tuple[int, ...]
    """The number of the segment that each goes on from, or NONE."""

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], num_shared: int = 0) -> Layout:
        """Sequences that have their first `num_shared` tokens in common and so many of their own."""
        first = [num_shared] if num_shared else []
        parents = [NONE] * len(first) + [len(first) - 1] * len(lengths)
        return cls(tuple(itertools.accumulate([*first, *lengths], initial=0)), tuple(parents))

    @classmethod
    def joined(cls, layouts: Sequence[Layout]) -> Layout:
        """End to end, of sequences that know nothing of each other's."""
        offsets, parents = [0], list[int]()
        for each in layouts:
            first, start = len(parents), offsets[-1]
            offsets += [start + offset for offset in each.offsets[1:]]
            parents += [parent if parent == NONE else first + parent for parent in each.parents]
        return cls(tuple(offsets), tuple(parents))

    def __post_init__(self) -> None:
        grows = all(a < b for a, b in itertools.pairwise(self.offsets))
        if not self.parents or not grows or self.offsets[0] != 0:
            raise ValueError("the segments' offsets must start at 0 and grow")
        if len(self.offsets) != len(self.parents) + 1:
            raise ValueError("every segment has a start and a parent")
        path: list[int] = []
        for number, parent in enumerate(self.parents):
            while path and path[-1] != parent:
                path.pop()
            if not path and parent != NONE:
                raise ValueError("what goes on from a segment must stand behind it, undivided")
            path.append(number)

    def behind(self, num_tokens: int) -> Layout:
        """The same behind so many tokens that everything goes on from."""
        return Layout(
            (0, *(offset + num_tokens for offset in self.offsets)),
            (NONE, *(parent + 1 for parent in self.parents)),
        )

    @property
    def num_tokens(self) -> int:
        return self.offsets[-1]

    # Once for all the layers that ask.
    @cached_property
    def lengths(self) -> list[int]:
        """Of the segments."""
        return [end - start for start, end in itertools.pairwise(self.offsets)]

    @cached_property
    def paths(self) -> list[list[int]]:
        """Of each sequence the segments that it consists of."""
        found: list[list[int]] = []
        path: list[int] = []
        for number, parent in enumerate(self.parents):
            while path and path[-1] != parent:
                path.pop()
            path.append(number)
            is_end = number + 1 == len(self.parents) or self.parents[number + 1] != number
            if is_end:
                found.append(list(path))
        return found

    @cached_property
    def sequence_lengths(self) -> list[int]:
        return [sum(self.lengths[number] for number in path) for path in self.paths]

    @cached_property
    def sequence_offsets(self) -> tuple[int, ...]:
        """Where the sequences lie once each is whole."""
        return tuple(itertools.accumulate(self.sequence_lengths, initial=0))

    @property
    def is_shared(self) -> bool:
        """Whether any sequences have anything in common."""
        return len(self.paths) < len(self.parents)

    def tokens(self, path: Sequence[int]) -> Tensor:
        """The places in the row (n,) of the segments' tokens."""
        pieces = [torch.arange(self.offsets[each], self.offsets[each + 1]) for each in path]
        return torch.cat(pieces)

    def position_ids(self) -> Tensor:
        """(T,) int64: how many tokens are before each in its sequences."""
        starts: list[int] = []
        for parent in self.parents:
            starts.append(0 if parent == NONE else starts[parent] + self.lengths[parent])
        pieces = [
            torch.arange(start, start + length)
            for start, length in zip(starts, self.lengths, strict=True)
        ]
        return torch.cat(pieces)

    def spread(self, x: Tensor) -> Tensor:
        """(1, H, T, D) -> (1, H, W, D): each sequence whole, one after the other."""
        if not self.is_shared:
            return x
        pieces = torch.split(x, self.lengths, dim=2)
        return torch.cat([pieces[each] for path in self.paths for each in path], dim=2)

    @cached_property
    def first_places(self) -> Tensor:
        """(T,): where the row's tokens are among the spread ones. Of copies the first stands for all."""
        places = torch.empty(self.num_tokens, dtype=torch.int64)
        is_placed = set()
        start = 0
        for path in self.paths:
            for each in path:
                end = start + self.lengths[each]
                if each not in is_placed:
                    is_placed.add(each)
                    places[self.offsets[each] : self.offsets[each + 1]] = torch.arange(start, end)
                start = end
        return places
