"""Which examples a step trains on, and how their rows lie in memory: end to end, without padding.

Rows often begin alike: with the same system message, or as answers to one prompt. What several of them begin with
lies in a batch once: a token's hidden states depend on what is before it alone, so they are the same in each.

Dimensions: B rows, T tokens of a batch, S scored positions.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dataset.examples import Example
from modeling.layout import NONE, Layout

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

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64, from 0 in each row
    layout: Layout  # of the B rows as sequences, though not in their order
    positions: Tensor  # (S,) int64: the indices into T whose next token is scored
    labels: Tensor  # (S,) int64: those next tokens
    weights: Tensor  # (S,) float32, of either sign
    num_scored: tuple[int, ...]
    """How many of the scored positions are of each of the B rows, one row after the other."""
    units: tuple[int, ...]
    """Which of the units that were asked for are in it, in the order of their rows."""

    def __post_init__(self) -> None:
        num_tokens, num_scored = len(self.input_ids), len(self.positions)
        if self.layout.num_tokens != num_tokens:
            raise ValueError("the layout is not of these tokens")
        if len(self.position_ids) != num_tokens:
            raise ValueError("every token needs its position")
        if not 0 < num_scored == len(self.labels) == len(self.weights):
            raise ValueError("every scored position needs its label and its weight")
        if len(self.num_scored) != len(self.layout.paths) or sum(self.num_scored) != num_scored:
            raise ValueError("every scored position belongs to a row")

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.layout,
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

    The rows of a unit, for example the two answers of a pair, stay together, so what they begin with is computed once. A unit longer than the budget
    gets a pass of its own. What follows a row's last scored token cannot change its scores and is left out,
    unless `whole_rows` are asked for, as by what reads the hidden state of the last token. Virtual tokens
    are what attention will keep before each row beside its own.
    """
    cuts = [[_cut(row, whole_rows) for row in unit] for unit in units]
    num_shared = _end_of_common([cut for unit in cuts for cut in unit])
    if not MIN_SHARED_TOKENS <= num_shared < micro_batch_tokens:
        num_shared = 0
    # Of the budget beside what all share, and of what attention may hold, whichever is more.
    budget = micro_batch_tokens - num_shared
    share = budget / (MAX_SHARING * micro_batch_tokens)

    def cost(unit: Sequence[_Cut]) -> int:
        computed = sum(segment.end - segment.start for segment in _segments(unit, num_shared))
        attended = sum(num_virtual_tokens + cut.length for cut in unit)
        return max(computed, math.ceil(attended * share))

    return [
        _lay_out([cut for index in group for cut in cuts[index]], group)
        for group in _groups(list(map(cost, cuts)), budget)
    ]


class _Cut(NamedTuple):
    """What is computed of a row: its first `length` tokens."""

    row: ScoredRow
    length: int
    limit: int
    """Up to here it may be shared: what stands there predicts the first token that is scored."""


def _cut(row: ScoredRow, is_whole: bool) -> _Cut:
    scored = row.scored
    return _Cut(row, len(row.input_ids) if is_whole else int(scored[-1]), int(scored[0]) - 1)


class _Segment(NamedTuple):
    """Tokens `start` to `end` of a row, and of those that share them."""

    row: int
    start: int
    end: int
    parent: int
    """The number of the segment before it, or NONE."""
    is_last: bool
    """Of that row alone, and its end."""


def _segments(cuts: Sequence[_Cut], start: int = 0) -> list[_Segment]:
    """What is behind the first `start` tokens, which all have in common: what rows share, once, each before its rest."""
    found: list[_Segment] = []
    # Rows that are alike up to `known`, of which what is behind `start` has no segment yet.
    pending = [(list(range(len(cuts))), start, start, NONE)]
    while pending:
        rows, start, known, parent = pending.pop()
        if len(rows) == 1:
            found.append(_Segment(rows[0], start, cuts[rows[0]].length, parent, is_last=True))
            continue
        end = _end_of_common([cuts[row] for row in rows], known)
        if end - start >= MIN_SHARED_TOKENS:
            found.append(_Segment(rows[0], start, end, parent, is_last=False))
            start, parent = end, len(found) - 1
        alike: dict[tuple[int, ...], list[int]] = {}
        for row in rows:
            is_over = end == cuts[row].limit
            key = (-1, row) if is_over else (int(cuts[row].row.input_ids[end]),)
            alike.setdefault(key, []).append(row)
        pending += [(each, start, end, parent) for each in reversed(alike.values())]
    return found


def _end_of_common(cuts: Sequence[_Cut], known: int = 0) -> int:
    """Up to where the rows are alike and may share it, if they are up to `known`."""
    limit = min(cut.limit for cut in cuts)
    tokens = np.stack([cut.row.input_ids[known:limit] for cut in cuts])
    differs = (tokens != tokens[0]).any(axis=0)
    return known + int(differs.argmax()) if differs.any() else limit


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


def _lay_out(cuts: Sequence[_Cut], units: Sequence[int]) -> MicroBatch:
    """Position t of a row predicts its token t + 1."""
    segments = _segments(cuts)
    lengths = [segment.end - segment.start for segment in segments]
    layout = Layout(
        tuple(itertools.accumulate(lengths, initial=0)),
        tuple(segment.parent for segment in segments),
    )
    # Where a row's first token would be, were it whole; nothing is scored of what it shares.
    begins = {
        segment.row: offset - segment.start
        for segment, offset in zip(segments, layout.offsets, strict=False)
        if segment.is_last
    }
    input_ids = [cuts[each.row].row.input_ids[each.start : each.end] for each in segments]
    positions, labels, weights = [], [], []
    for number, (row, _, _) in enumerate(cuts):
        scored = row.scored
        positions.append(scored - 1 + begins[number])
        labels.append(row.input_ids[scored])
        weights.append(row.weights[scored])
    return MicroBatch(
        input_ids=torch.from_numpy(np.concatenate(input_ids).astype(np.int64)),
        position_ids=layout.position_ids(),
        layout=layout,
        positions=torch.from_numpy(np.concatenate(positions)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        weights=torch.from_numpy(np.concatenate(weights)),
        num_scored=tuple(map(len, positions)),
        units=tuple(units),
    )
