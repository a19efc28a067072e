"""A linear layer of the base, and slots in it for adapters: each is added to its own tokens of the batch.

The batch's tokens are sorted by slot, so each adapter's tokens are one run. Runs of similar length, as
when many sequences generate, are padded to one length and computed as one batched product for all slots.
Others are computed run by run, `x[run] @ A @ B` in the adapter's own rank. Either way there is no gathering
of weights and no cost for tokens of the base or for a layer that no adapter targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .linear import PackedLinear

# (A, B) of one layer: (in, R) and (R, out), the scale folded into B.
Pair = tuple[Tensor, Tensor]
# Runs are computed together if padding makes them at most so many times as many tokens, and their
# adapters at most so many times as wide: nobody is to pay for a neighbour's wide adapter.
MAX_PADDING = 2
# A stack is as wide for all its slots; a wider adapter has tensors of its own.
MAX_STACKED_RANK = 64


@dataclass(frozen=True, slots=True)
class SlotRun:
    """The next `num_tokens` of the batch belong to the adapter in `slot`, or to the base (None)."""

    slot: int | None
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _Together:
    """A run for each of `num` neighbouring slots, padded to one length: num * length places."""

    slots: tuple[int, ...]
    """Those with a run; the first and the last of the neighbours are among them."""
    first: int
    num: int
    length: int
    tokens: Tensor
    """(num * length,) which of the batch's tokens is at each place, whichever where none belongs."""
    places: Tensor
    """(n,) where the tokens are that have an adapter."""
    owned: Tensor
    """(n,) those tokens."""


class SlotRuns:
    """The runs of the step in progress, shared by all layers of one model."""

    def __init__(self) -> None:
        self.slots: list[int | None] = []
        self.lengths: list[int] = []
        self.together: _Together | None = None

    def set(self, runs: Sequence[SlotRun], device: torch.device) -> None:
        """Say which tokens of the coming step belong to which slot, each slot in one run."""
        has_adapters = any(run.slot is not None for run in runs)
        self.slots = [run.slot for run in runs] if has_adapters else []
        self.lengths = [run.num_tokens for run in runs]
        self.together = _together(runs, device)


def _together(runs: Sequence[SlotRun], device: torch.device) -> _Together | None:
    """None if the runs differ too much in length, or there is but one."""
    begins: dict[int, tuple[int, int]] = {}
    begin = 0
    for run in runs:
        if run.slot is not None:
            begins[run.slot] = begin, run.num_tokens
        begin += run.num_tokens
    if len(begins) < 2:
        return None
    first, num = min(begins), max(begins) - min(begins) + 1
    length = max(n for _, n in begins.values())
    if num * length > MAX_PADDING * sum(n for _, n in begins.values()):
        return None
    places: list[int] = []
    owned: list[int] = []
    for slot, (begin, n) in begins.items():
        place = (slot - first) * length
        places += range(place, place + n)
        owned += range(begin, begin + n)
    tokens = torch.zeros(num * length, dtype=torch.long)
    tokens[places] = torch.tensor(owned)
    indices = (tokens, torch.tensor(places), torch.tensor(owned))
    return _Together(tuple(begins), first, num, length, *(index.to(device) for index in indices))


class SlotLinear(nn.Module):
    """Linear layers of the base that are computed as one, and the slots' adapters for them."""

    def __init__(self, linears: Sequence[nn.Linear], num_slots: int, runs: SlotRuns) -> None:
        super().__init__()
        self.base = PackedLinear(linears)
        self.slots: list[Pair | None] = [None] * num_slots
        """Views of the stacks, but for wide adapters."""
        self._runs = runs
        # (slots, in, R) and (slots, R, out) for the largest rank, narrower adapters beside zeros.
        self._stacks: Pair | None = None

    def put(self, slot: int, pair: Pair | None) -> None:
        """Copy an adapter's pair into the slot, or empty it."""
        self.slots[slot] = None
        if self._stacks is not None:
            for stack in self._stacks:
                stack[slot] = 0
        if pair is None:
            return
        rank = pair[0].shape[1]
        if rank > MAX_STACKED_RANK:
            self.slots[slot] = pair[0].to(self.base.device), pair[1].to(self.base.device)
            return
        if self._stacks is None or rank > self._stacks[0].shape[2]:
            self._widen(pair)
        view = self.slots[slot] = self._view(slot, rank)
        for place, tensor in zip(view, pair, strict=True):
            place.copy_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, in) -> (1, T, sum of out)"""
        out: Tensor = self.base(x)
        together = self._runs.together
        rank = 0 if together is None else self._rank_together(together.slots)
        if together is not None and rank:
            self._add_together(x[0], out[0], together, rank)
        elif self._runs.slots:
            self._add_one_by_one(x[0], out[0])
        return out

    def _rank_together(self, slots: Sequence[int]) -> int:
        """The largest rank among the slots' adapters, or 0 if they are not to be computed together."""
        pairs = [pair for slot in slots if (pair := self.slots[slot]) is not None]
        ranks = [left.shape[1] for left, _ in pairs]
        if not ranks or max(ranks) > min(MAX_STACKED_RANK, MAX_PADDING * min(ranks)):
            return 0
        return max(ranks)

    def _add_one_by_one(self, x: Tensor, out: Tensor) -> None:
        # All runs' views in one call: sliced one by one they would cost as much as the products.
        inputs, outputs = (torch.split(t, self._runs.lengths) for t in (x, out))
        for slot, run, run_out in zip(self._runs.slots, inputs, outputs, strict=True):
            if slot is not None and (pair := self.slots[slot]) is not None:
                run_out.addmm_(run @ pair[0], pair[1])

    def _add_together(self, x: Tensor, out: Tensor, runs: _Together, rank: int) -> None:
        assert self._stacks is not None
        slots = slice(runs.first, runs.first + runs.num)
        left, right = self._stacks[0][slots, :, :rank], self._stacks[1][slots, :rank]
        rows, sums = (
            t.index_select(0, runs.tokens).view(runs.num, runs.length, -1) for t in (x, out)
        )
        sums.baddbmm_(torch.bmm(rows, left), right)
        out.index_copy_(0, runs.owned, sums.flatten(0, 1).index_select(0, runs.places))

    def _view(self, slot: int, rank: int) -> Pair:
        assert self._stacks is not None
        left, right = self._stacks
        return left[slot, :, :rank], right[slot, :rank]

    def _widen(self, pair: Pair) -> None:
        """Make room for the pair's rank; what is in the slots stays there."""
        (num_in, rank), num_out, num_slots = pair[0].shape, pair[1].shape[1], len(self.slots)
        device = self.base.device
        wider = (
            torch.zeros(num_slots, num_in, rank, dtype=pair[0].dtype, device=device),
            torch.zeros(num_slots, rank, num_out, dtype=pair[1].dtype, device=device),
        )
        if self._stacks is not None:
            old_rank = self._stacks[0].shape[2]
            wider[0][:, :, :old_rank], wider[1][:, :old_rank] = self._stacks
        self._stacks = wider
        for slot, held in enumerate(self.slots):
            if held is not None and held[0].shape[1] <= MAX_STACKED_RANK:
                self.slots[slot] = self._view(slot, held[0].shape[1])
