"""Adapters side by side in one batch: every linear layer of the base holds a few of them in slots.

Layers that the base computes as one (`linear.SHARING_INPUT`) are one for adapters, too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from serving.engine.tier_counts import TierCounts

from .linear import PackedLinear, fused_names, put, put_parts
from .low_rank import LowRank
from .slot_linear import SlotLinear, SlotRun, SlotRuns


@dataclass(frozen=True, eq=False)
class Adapter:
    """A parsed adapter, ready to be put into a slot."""

    id: str
    pairs: Mapping[str, LowRank]
    """By the name of a linear layer in the base, for fused layers that of the first."""
    strength: float = 1.0
    """What is added to the base, as a multiple of what was trained. The pairs are without it."""

    @property
    def key(self) -> tuple[str, float]:
        """Of a slot: at another strength it is another adapter."""
        return self.id, self.strength

    def pair(self, name: str) -> LowRank | None:
        """What a layer's slot is to hold."""
        pair = self.pairs.get(name)
        if pair is None or self.strength == 1:
            return pair
        return pair.times(self.strength)

    @cached_property
    def size_bytes(self) -> int:
        return sum(pair.size_bytes for pair in self.pairs.values())

    @classmethod
    def from_layers(
        cls,
        id: str,
        layers: Mapping[str, tuple[Tensor, Tensor, float]],
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
    ) -> Adapter:
        """From PEFT's orientation: A (R, in), B (out, R) and the scale of each layer.

        `shapes` are the base's, (out, in) by layer.
        """
        groups = {tuple(fused_names(name)) for name in layers}
        return cls(id, {names[0]: LowRank.of(names, layers, shapes, dtype) for names in groups})


class AdapterSlots:
    """Which adapter is in which slot, and how many running sequences use it.

    A slot that nobody uses keeps its adapter until another needs the place, the one unused for longest
    first.
    """

    def __init__(
        self, model: PreTrainedModel, num_slots: int, *, budget_bytes: int | None = None
    ) -> None:
        """`budget_bytes` bounds the adapters in slots together, each in its own rank."""
        self._runs = SlotRuns()
        self._layers = _replace_linears(model, num_slots, self._runs)
        self._num_users = [0] * num_slots
        self._adapters: list[Adapter | None] = [None] * num_slots
        # Slots by last use, the longest unused first.
        self._order = list(range(num_slots))
        self.num_slots = num_slots
        self.budget_bytes = budget_bytes
        self.counts = TierCounts()

    @property
    def size_bytes(self) -> int:
        """Of the adapters in slots. Where narrow ones lie beside wider ones, zeros come on top."""
        return sum(adapter.size_bytes for adapter in self._adapters if adapter is not None)

    @property
    def loaded_ids(self) -> list[str]:
        return [adapter.id for adapter in self._adapters if adapter is not None]

    def has_room(self, adapter: Adapter) -> bool:
        """Whether the adapter is in a slot, or could be put into one."""
        return self.find(adapter) is not None or bool(self._to_empty(adapter))

    def num_users(self, slot: int) -> int:
        return self._num_users[slot]

    def find(self, adapter: Adapter) -> int | None:
        """Its slot, if it is in one."""
        for slot, held in enumerate(self._adapters):
            if held is not None and held.key == adapter.key:
                return slot
        return None

    def acquire(self, adapter: Adapter) -> int | None:
        """A slot that holds the adapter until `release`; None while all slots are in use by others."""
        slot = self.find(adapter)
        if slot is None:
            slots = self._to_empty(adapter)
            if not slots:
                return None
            self.counts.num_misses += 1
            slot = slots.pop(0)
            for other in slots:
                self._load(other, None)
            began_s = time.perf_counter()
            self._load(slot, adapter)
            self.counts.note_load(time.perf_counter() - began_s)
        else:
            self.counts.num_hits += 1
        self._num_users[slot] += 1
        self._order.remove(slot)
        self._order.append(slot)
        return slot

    def release(self, slot: int) -> None:
        self._num_users[slot] -= 1

    def unload(self, adapter_id: str) -> bool:
        """Empty the adapter's slots, of whatever strength. False if sequences still use one."""
        slots = [s for s, held in enumerate(self._adapters) if held and held.id == adapter_id]
        for slot in slots:
            if not self._num_users[slot]:
                self._load(slot, None)
        return not any(self._num_users[slot] for slot in slots)

    def _to_empty(self, adapter: Adapter) -> list[int]:
        """The slot for an adapter that is in none, and behind it others that must be empty for it. Nothing where it
        has to wait."""
        unused = [slot for slot in self._order if not self._num_users[slot]]
        if self.budget_bytes is None:
            return unused[:1]
        num_bytes = self.size_bytes + adapter.size_bytes
        for number, slot in enumerate(unused, start=1):
            held = self._adapters[slot]
            num_bytes -= held.size_bytes if held is not None else 0
            if num_bytes <= self.budget_bytes:
                return unused[:number]
        return []

    def set_runs(self, runs: Sequence[SlotRun]) -> None:
        """Say which tokens of the coming step belong to which slot."""
        self._runs.set(runs)

    def _load(self, slot: int, adapter: Adapter | None) -> None:
        self.counts.num_evictions += self._adapters[slot] is not None
        # Whatever goes wrong on the way, nobody finds an adapter of which some layers are missing.
        self._adapters[slot] = None
        for name, layer in self._layers.items():
            layer.put(slot, adapter.pair(name) if adapter is not None else None)
        self._adapters[slot] = adapter


def _replace_linears(
    model: PreTrainedModel, num_slots: int, runs: SlotRuns
) -> dict[str, SlotLinear]:
    """Put slots into every linear layer but the output head, which no adapter targets.

    The new layers are named as `Adapter.pairs` names them.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    made: dict[str, SlotLinear] = {}
    for name in list(linears):
        if name not in linears:
            continue
        if linears[name] is head:
            put(model, name, PackedLinear([linears.pop(name)]))
            continue
        names = fused_names(name)
        # Let go of one by one: a large model is not to be in memory twice.
        parts = [linears.pop(n) for n in names]
        layer = made[names[0]] = SlotLinear(parts, num_slots, runs)
        put_parts(model, names, layer, [part.out_features for part in parts])
    return made
