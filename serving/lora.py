"""Adapters side by side in one batch: every linear layer of the base holds a few of them in slots.

The batch's tokens are sorted by slot, so each adapter's tokens are one run, and the layer adds
`x[run] @ A @ B` for each run. That keeps every product a plain matrix product of exactly the adapter's
rank: no padding of ranks, no gathering of weights, nothing at all for a layer that the adapter does
not target, and no cost for tokens of the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .linear import PackedLinear

# (A, B) of one layer: (in, R) and (R, out), the scale folded into B.
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A parsed adapter, ready to be put into a slot."""

    id: str
    pairs: Mapping[str, Pair]
    """By name of the linear layer in the base, such as `model.layers.0.self_attn.q_proj`."""

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.itemsize for pair in self.pairs.values() for t in pair)

    @classmethod
    def from_layers(
        cls, id: str, layers: Mapping[str, tuple[Tensor, Tensor, float]], dtype: torch.dtype
    ) -> Adapter:
        """From PEFT's orientation: A (R, in), B (out, R) and the scale of each layer."""
        pairs = {
            name: (
                a.T.to(dtype).contiguous(),
                (b.T.float() * scale).to(dtype).contiguous(),
            )
            for name, (a, b, scale) in layers.items()
        }
        return cls(id, pairs)


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens begin..end of the batch belong to the adapter in `slot`."""

    slot: int
    begin: int
    end: int


class _Runs:
    """The runs of the step in progress, shared by all layers of one model."""

    def __init__(self) -> None:
        self.now: Sequence[Run] = ()


class SlotLinear(nn.Module):
    """A linear layer of the base, and the slots' adapters for it."""

    def __init__(self, linear: nn.Linear, num_slots: int, runs: _Runs) -> None:
        super().__init__()
        self.base = PackedLinear(linear)
        self.slots: list[Pair | None] = [None] * num_slots
        self._runs = runs

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, in) -> (1, T, out)"""
        out: Tensor = self.base(x)
        for run in self._runs.now:
            if (pair := self.slots[run.slot]) is not None:
                a, b = pair
                out[0, run.begin : run.end].addmm_(x[0, run.begin : run.end] @ a, b)
        return out


class AdapterSlots:
    """Which adapter is in which slot, and how many running sequences use it.

    A slot that nobody uses keeps its adapter until another needs the place, the one unused for longest
    first. On the CPU a slot merely points at the adapter's tensors; on CUDA it holds copies of them.
    """

    def __init__(self, model: PreTrainedModel, num_slots: int) -> None:
        self._runs = _Runs()
        self._layers = _replace_linears(model, num_slots, self._runs)
        self._device = model.device
        self._num_users = [0] * num_slots
        self._adapters: list[Adapter | None] = [None] * num_slots
        # Slots by last use, the longest unused first.
        self._order = list(range(num_slots))

    @property
    def loaded_ids(self) -> list[str]:
        return [adapter.id for adapter in self._adapters if adapter is not None]

    def find(self, adapter_id: str) -> int | None:
        """The adapter's slot, if it is in one."""
        for slot, adapter in enumerate(self._adapters):
            if adapter is not None and adapter.id == adapter_id:
                return slot
        return None

    def acquire(self, adapter: Adapter) -> int | None:
        """A slot that holds the adapter until `release`; None while all slots are in use by others."""
        slot = self.find(adapter.id)
        if slot is None:
            slot = next((s for s in self._order if not self._num_users[s]), None)
            if slot is None:
                return None
            self._load(slot, adapter)
        self._num_users[slot] += 1
        self._order.remove(slot)
        self._order.append(slot)
        return slot

    def release(self, slot: int) -> None:
        self._num_users[slot] -= 1

    def unload(self, adapter_id: str) -> bool:
        """Empty the adapter's slot. False if sequences still use it."""
        slot = self.find(adapter_id)
        if slot is None:
            return True
        if self._num_users[slot]:
            return False
        self._load(slot, None)
        return True

    def set_runs(self, runs: Sequence[Run]) -> None:
        """Say which tokens of the coming step belong to which slot."""
        self._runs.now = runs

    def _load(self, slot: int, adapter: Adapter | None) -> None:
        self._adapters[slot] = adapter
        for name, layer in self._layers.items():
            pair = adapter.pairs.get(name) if adapter is not None else None
            layer.slots[slot] = (
                None
                if pair is None
                else (
                    pair[0].to(self._device, non_blocking=True),
                    pair[1].to(self._device, non_blocking=True),
                )
            )


def _replace_linears(model: PreTrainedModel, num_slots: int, runs: _Runs) -> dict[str, SlotLinear]:
    """Put a SlotLinear in place of every linear layer but the output head, which no adapter targets."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    replaced: dict[str, SlotLinear] = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        if module is head:
            setattr(parent, child_name, PackedLinear(module))
        else:
            replaced[name] = SlotLinear(module, num_slots, runs)
            setattr(parent, child_name, replaced[name])
    return replaced
