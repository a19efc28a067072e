"""A linear layer of the base, and slots in it for adapters: each is added to its own tokens of the batch.

The batch's tokens are sorted by slot, so each adapter's tokens are one run. A long run, as of a prompt, is computed
by itself: two products. Short ones, as when many sequences generate, would be many products of next to no rows,
each of which costs more than what it computes. So they are computed together, token by token, as sums of table rows:
what a token gains is the sum of its adapter's rows, each times a number, and the tables hold the rows of all slots. Each
token has rows of its own adapter alone, so there are no zeros to be multiplied for a neighbour of another rank, and nothing
for tokens of the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .linear import PackedLinear
from .low_rank import LowRank, b_rows

# A run of at most so many tokens is computed row by row. A product of 16 takes as long; one of 64 half as long.
MAX_SUMMED_TOKENS = 16
# Of one layer. A table is as wide for all its slots; a wider adapter has tensors of its own.
MAX_TABLE_RANK = 64


@dataclass(frozen=True, slots=True)
class SlotRun:
    """The next `num_tokens` of the batch belong to the adapter in `slot`, or to the base (None)."""

    slot: int | None
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _Sums:
    """Which rows are summed up. Each sum begins where its offset says and ends where the next one begins."""

    tokens: Tensor | None
    """(n,) the batch's tokens with a short run's adapter; None if these are all."""
    width: int
    """Of the narrow products."""
    a_rows: Tensor
    """In the first table, all those of each of these tokens."""
    a_offsets: Tensor
    b_rows: Tensor
    """In the second table; a sum for each unit of each of the batch's tokens."""
    b_offsets: Tensor
    places: Tensor
    """In the narrow products of these tokens: what each row of the second table is multiplied by."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a step's adapters are computed in a layer."""

    sums: _Sums | None
    products: tuple[tuple[int, int, int], ...]
    """Slot, begin and end of each long run."""


_Layout = tuple[object, ...]


class SlotRuns:
    """The runs of the step in progress, shared by all layers of one model, and what follows from them in each.

    Steps of one sort follow each other: as long as the same sequences generate, nothing of it changes.
    """

    def __init__(self) -> None:
        self.runs: tuple[SlotRun, ...] = ()
        self.plans: dict[_Layout, _Plan] = {}
        """By what matters of a layer. Another dictionary for other runs."""

    def set(self, runs: Sequence[SlotRun]) -> None:
        """Say which tokens of the coming step belong to which slot, each slot in one run."""
        if (given := tuple(runs)) != self.runs:
            self.runs = given
            self.plans = {}


class SlotLinear(nn.Module):
    """Linear layers of the base that are computed as one, and the slots' adapters for them."""

    def __init__(self, linears: Sequence[nn.Linear], num_slots: int, runs: SlotRuns) -> None:
        super().__init__()
        self.base = PackedLinear(linears)
        self.slots: list[LowRank | None] = [None] * num_slots
        """Views of the tables, but for wide adapters."""
        self._sizes = tuple(linear.out_features for linear in linears)
        self._num_in = linears[0].in_features
        # The second table's rows are as wide as divides all outputs.
        self._unit = math.gcd(*self._sizes)
        self._runs = runs
        # (slots, in, sum of ranks) and (slots, rows, unit), as large as the largest adapter needs.
        self._tables: tuple[Tensor, Tensor] | None = None
        self._plan: _Plan | None = None
        self._plan_is_from: dict[_Layout, _Plan] | None = None

    def put(self, slot: int, pair: LowRank | None) -> None:
        """Copy an adapter's part into the slot, or empty it."""
        self.slots[slot] = self._plan_is_from = None
        if pair is None:
            return
        if max(pair.ranks) > MAX_TABLE_RANK:
            self.slots[slot] = pair.to(self.base.device)
            return
        self._make_room(pair)
        view = self._view(slot, pair.ranks)
        for place, tensor in zip((view.a, *view.bs), (pair.a, *pair.bs), strict=True):
            place.copy_(tensor)
        self.slots[slot] = view

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, in) -> (1, T, sum of out)"""
        if self._plan_is_from is not self._runs.plans:
            self._plan = self._make_plan()
            self._plan_is_from = self._runs.plans
        gained = None if self._plan is None else self._gained(x[0], self._plan)[None]
        out: Tensor = self.base(x, gained)
        return out

    def _gained(self, x: Tensor, plan: _Plan) -> Tensor:
        """(T, in) -> (T, sum of out): what the adapters add."""
        if plan.sums is None:
            gained = x.new_zeros(len(x), sum(self._sizes))
        else:
            gained = self._summed(x, plan.sums)
        for slot, begin, end in plan.products:
            pair = self.slots[slot]
            assert pair is not None
            narrow = torch.split(x[begin:end] @ pair.a, list(pair.ranks), 1)
            outs = torch.split(gained[begin:end], list(self._sizes), 1)
            for out, part, b in zip(outs, narrow, pair.bs, strict=True):
                if len(b):
                    torch.mm(part, b, out=out)
        return gained

    def _summed(self, x: Tensor, sums: _Sums) -> Tensor:
        assert self._tables is not None
        a, b = self._tables
        rows = x if sums.tokens is None else x.index_select(0, sums.tokens)
        narrow = _sums_of_rows(
            a.flatten(0, 1)[:, : sums.width], sums.a_rows, sums.a_offsets, rows.flatten()
        )
        factors = narrow.flatten().index_select(0, sums.places)
        gained = _sums_of_rows(b.flatten(0, 1), sums.b_rows, sums.b_offsets, factors)
        return gained.view(len(x), -1)

    def _make_plan(self) -> _Plan | None:
        """None if no adapter adds anything here."""
        ranks = tuple(
            None if run.slot is None or (pair := self.slots[run.slot]) is None else pair.ranks
            for run in self._runs.runs
        )
        if not any(ranks):
            return None
        capacities = None if self._tables is None else tuple(t.shape[1:] for t in self._tables)
        layout: _Layout = (self._num_in, self._sizes, capacities, ranks)
        if layout not in self._runs.plans:
            self._runs.plans[layout] = self._plan_of(ranks)
        return self._runs.plans[layout]

    def _plan_of(self, ranks: Sequence[tuple[int, ...] | None]) -> _Plan:
        products: list[tuple[int, int, int]] = []
        summed: list[tuple[int, int, tuple[int, ...] | None]] = []
        begin = 0
        for run, of_run in zip(self._runs.runs, ranks, strict=True):
            end = begin + run.num_tokens
            is_long = run.num_tokens > MAX_SUMMED_TOKENS or max(of_run or (0,)) > MAX_TABLE_RANK
            if of_run is not None and is_long:
                assert run.slot is not None
                products.append((run.slot, begin, end))
                of_run = None
            summed.append((run.slot or 0, run.num_tokens, of_run))
            begin = end
        has_sums = any(of_run for _, _, of_run in summed)
        return _Plan(self._sums(summed) if has_sums else None, tuple(products))

    def _sums(self, runs: Sequence[tuple[int, int, tuple[int, ...] | None]]) -> _Sums:
        """Of runs of a slot, a number of tokens, and the ranks of those that are computed so."""
        assert self._tables is not None
        num_rows = self._tables[1].shape[1]
        num_units = sum(self._sizes) // self._unit
        width = max(sum(of_run) for _, _, of_run in runs if of_run)
        tokens: list[int] = []
        slots: list[int] = []
        b_places: list[Tensor] = []
        factors: list[Tensor] = []
        numbers: list[Tensor] = []
        begin = 0
        for slot, num_tokens, of_run in runs:
            if of_run is None:
                numbers.append(torch.zeros(num_tokens * num_units, dtype=torch.long))
            else:
                first = torch.arange(len(tokens), len(tokens) + num_tokens)[:, None]
                tokens += range(begin, begin + num_tokens)
                slots += [slot] * num_tokens
                of_token = b_rows(of_run, self._sizes, self._unit)
                b_places.append((of_token[0] + slot * num_rows).repeat(num_tokens))
                factors.append((of_token[1] + first * width).flatten())
                numbers.append(of_token[2].repeat(num_tokens))
            begin += num_tokens
        a_rows = torch.tensor(slots)[:, None] * self._num_in + torch.arange(self._num_in)
        device = self.base.device
        return _Sums(
            tokens=torch.tensor(tokens, device=device) if len(tokens) < begin else None,
            width=width,
            a_rows=a_rows.flatten().to(device),
            a_offsets=(torch.arange(len(tokens)) * self._num_in).to(device),
            b_rows=torch.cat(b_places).to(device),
            b_offsets=(torch.cat(numbers).cumsum(0) - torch.cat(numbers)).to(device),
            places=torch.cat(factors).to(device),
        )

    def _view(self, slot: int, ranks: Sequence[int]) -> LowRank:
        assert self._tables is not None
        a, b = (table[slot] for table in self._tables)
        lengths = [rank * size for rank, size in zip(ranks, self._sizes, strict=True)]
        flat = torch.split(b.flatten()[: sum(lengths)], lengths)
        return LowRank(
            a[:, : sum(ranks)],
            tuple(
                part.view(rank, size)
                for part, rank, size in zip(flat, ranks, self._sizes, strict=True)
            ),
        )

    def _make_room(self, pair: LowRank) -> None:
        """For an adapter of these ranks in any slot; what is in the slots stays there."""
        num_slots = len(self.slots)
        width, num_rows = sum(pair.ranks), sum(b.numel() for b in pair.bs) // self._unit
        if self._tables is not None:
            a, b = self._tables
            if width <= a.shape[2] and num_rows <= b.shape[1]:
                return
            width, num_rows = max(width, a.shape[2]), max(num_rows, b.shape[1])
        made = (
            pair.a.new_empty(num_slots, self._num_in, width, device=self.base.device),
            pair.a.new_empty(num_slots, num_rows, self._unit, device=self.base.device),
        )
        if self._tables is not None:
            made[0][:, :, : a.shape[2]], made[1][:, : b.shape[1]] = a, b
        self._tables = made
        for slot, held in enumerate(self.slots):
            if held is not None and max(held.ranks) <= MAX_TABLE_RANK:
                self.slots[slot] = self._view(slot, held.ranks)


def _sums_of_rows(table: Tensor, rows: Tensor, offsets: Tensor, factors: Tensor) -> Tensor:
    """(rows in all, width) -> (offsets, width): of each stretch of `rows` the sum, each times its factor."""
    sums: Tensor = torch.embedding_bag(table, rows, offsets, False, 0, False, factors, False)[0]
    return sums
