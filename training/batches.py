"""Which examples a step trains on, and how their rows lie in memory: end to end, without padding.

Rows often begin alike, with the same system message. What all of a step's rows begin with lies in
a batch once: a token's hidden states depend on what is before it alone, so they are the same in each.

Dimensions: B rows, T tokens of a batch, S scored positions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.examples import Example

MIN_SHARED_TOKENS = 8
"""Fewer cost more to share than to compute again."""
MAX_SHARING = 4
"""Attention keeps the keys of shared and virtual tokens once for each row: so many times the budget at most."""


@dataclass(frozen=True)
class ScoredRow:
    """A sequence to run the model over. What is scored and by how much it counts are two things."""

    input_ids: npt.NDArray[np.int32]  # (T,)
    mask: npt.NDArray[np.bool_]  # (T,): predict token t from those before it
    weights: npt.NDArray[np.float32]  # (T,), of either sign

    @classmethod
    def of(cls, example: Example) -> ScoredRow:
        """Of an example that is one sequence."""
        return cls(example.input_ids, example.weights != 0, example.weights)

    @property
    def scored(self) -> npt.NDArray[np.intp]:
        """The tokens that are scored, at least one. Nothing predicts the first token."""
        return self.mask[1:].nonzero()[0] + 1


@dataclass(frozen=True)
class MicroBatch:
    """Packed rows, one forward pass. Raises ValueError when its parts do not fit together."""

    input_ids: Tensor  # (T,) int64: the shared tokens, then each row's own
    position_ids: Tensor  # (T,) int64, from 0 in the shared tokens and on from there in each row
    num_shared: int  # tokens that every row begins with
    cu_seqlens: tuple[int, ...]  # B + 1 offsets of the rows' own tokens, from num_shared to T
    positions: Tensor  # (S,) int64: the indices into T whose next token is scored
    labels: Tensor  # (S,) int64: those next tokens
    weights: Tensor  # (S,) float32, of either sign
    num_scored: tuple[int, ...]
    """How many of the scored positions are of each of the B rows, one row after the other."""
    units: tuple[int, ...]
    """Which of the units that were asked for are in it, in the order of their rows."""

    def __post_init__(self) -> None:
        num_tokens, num_scored = len(self.input_ids), len(self.positions)
        if self.cu_seqlens[0] != self.num_shared or self.cu_seqlens[-1] != num_tokens:
            raise ValueError("cu_seqlens must run from num_shared to the number of tokens")
        if any(a >= b for a, b in itertools.pairwise(self.cu_seqlens)):
            raise ValueError("a row in the batch is empty")
        if len(self.position_ids) != num_tokens:
            raise ValueError("every token needs its position")
        if not 0 < num_scored == len(self.labels) == len(self.weights):
            raise ValueError("every scored position needs its label and its weight")
        if len(self.num_scored) != len(self.cu_seqlens) - 1 or sum(self.num_scored) != num_scored:
            raise ValueError("every scored position belongs to a row")

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.num_shared,
            self.cu_seqlens,
            self.positions.to(device),
            self.labels.to(device),
            self.weights.to(device),
            self.num_scored,
            self.units,
        )

    def of_rows(self, values: Tensor) -> list[Tensor]:
        """Values of the scored positions (S,), row by row."""
        return list(torch.split(values, list(self.num_scored)))


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def epoch_of(step: int, num_examples: int, batch_size: int) -> int:
    """The 1-based epoch of a 1-based step."""
    return (step - 1) // steps_per_epoch(num_examples, batch_size) + 1


def examples_of_step(step: int, num_examples: int, batch_size: int, seed: int) -> list[int]:
    """The indices of the examples of a 1-based step: a function of its arguments alone.

    An epoch sees each example once; its last step may hold fewer than batch_size.
    """
    epoch = epoch_of(step, num_examples, batch_size)
    first = (step - 1) % steps_per_epoch(num_examples, batch_size) * batch_size
    order: list[int] = permutation(num_examples, seed, epoch)[first : first + batch_size].tolist()
    return order


@lru_cache(maxsize=2)
def permutation(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """The indices sorted by a hash of (seed, epoch, index): no generator, no hidden state.

    Of millions of examples an array takes a tenth of what a list of numbers would.
    """

    def rank(index: int) -> int:
        digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8])

    ranks = np.fromiter(map(rank, range(num_examples)), np.uint64, num_examples)
    return np.argsort(ranks, kind="stable").astype(np.uint32)


def micro_batches(
    units: Sequence[Sequence[ScoredRow]],
    micro_batch_tokens: int,
    *,
    whole_rows: bool = False,
    num_virtual_tokens: int = 0,
) -> list[MicroBatch]:
    """The rows in as few forward passes as the token budget allows, of about equal size.

    The rows of a unit, for example the two answers of a pair, stay together. A unit longer than the budget
    gets a pass of its own. What follows a row's last scored token cannot change its scores and is left out,
    unless `whole_rows` are asked for, as by what reads the hidden state of the last token. Virtual tokens
    are what attention will keep before each row beside its own.
    """
    rows = [row for unit in units for row in unit]
    num_shared = _num_shared(rows)
    if num_shared >= micro_batch_tokens:
        num_shared = 0
    # Of the budget beside the shared tokens, and of what attention may hold, whichever is more.
    budget = micro_batch_tokens - num_shared
    is_sharing = num_shared + num_virtual_tokens > 0
    share = budget / (MAX_SHARING * micro_batch_tokens) if is_sharing else 0

    def length(row: ScoredRow) -> int:
        return len(row.input_ids) if whole_rows else int(row.scored[-1])

    def cost(row: ScoredRow) -> int:
        attended = num_virtual_tokens + length(row)
        return max(length(row) - num_shared, math.ceil(attended * share))

    packed = []
    for group in _groups([sum(map(cost, unit)) for unit in units], budget):
        together = [(row, length(row)) for index in group for row in units[index]]
        packed.append(_lay_out(together, num_shared if len(together) > 1 else 0, group))
    return packed


def _num_shared(rows: Sequence[ScoredRow]) -> int:
    """How many tokens all the rows begin with, up to the first position that predicts a scored one."""
    limit = min(int(row.scored[0]) - 1 for row in rows)
    beginnings = np.stack([row.input_ids[:limit] for row in rows])
    differs = (beginnings != beginnings[0]).any(axis=0)
    num_shared = int(differs.argmax()) if differs.any() else limit
    return num_shared if len(rows) > 1 and num_shared >= MIN_SHARED_TOKENS else 0


def _groups(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Dearest first into the emptiest group, with the fewest groups that keep to the budget."""
    dearest_first = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    limit = max(budget, max(costs))
    for num_groups in range(math.ceil(sum(costs) / limit), len(costs)):
        groups: list[list[int]] = [[] for _ in range(num_groups)]
        totals = [0] * num_groups
        for index in dearest_first:
            emptiest = totals.index(min(totals))
            groups[emptiest].append(index)
            totals[emptiest] += costs[index]
        if max(totals) <= limit:
            return groups
    return [[index] for index in dearest_first]


def _lay_out(
    rows: Sequence[tuple[ScoredRow, int]], num_shared: int, units: Sequence[int]
) -> MicroBatch:
    """The beginnings of rows, of the given lengths. Position t of a row predicts its token t + 1."""
    own = [length - num_shared for _, length in rows]
    offsets = list(itertools.accumulate(own, initial=num_shared))
    # Nothing is scored at the shared positions.
    shared = rows[0][0].input_ids[:num_shared]
    input_ids = [shared, *(row.input_ids[num_shared:length] for row, length in rows)]
    positions, labels, weights = [], [], []
    for (row, _), offset in zip(rows, offsets, strict=False):
        scored = row.scored
        positions.append(scored - 1 - num_shared + offset)
        labels.append(row.input_ids[scored])
        weights.append(row.weights[scored])
    return MicroBatch(
        input_ids=torch.from_numpy(np.concatenate(input_ids).astype(np.int64)),
        position_ids=torch.cat(
            [torch.arange(num_shared), *(torch.arange(num_shared, length) for _, length in rows)]
        ),
        num_shared=num_shared,
        cu_seqlens=tuple(offsets),
        positions=torch.from_numpy(np.concatenate(positions)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        weights=torch.from_numpy(np.concatenate(weights)),
        num_scored=tuple(map(len, positions)),
        units=tuple(units),
    )
