"""What happened at one of the places where adapters are kept: slots, RAM, disk, blob store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TierCounts:
    """Since the start. Written where the place is looked after, read by anybody."""

    num_hits: int = 0
    num_misses: int = 0
    num_evictions: int = 0
    num_loads: int = 0
    """From the place below."""
    load_s: float = 0.0
    """What they took, all together."""

    def note_load(self, took_s: float) -> None:
        self.num_loads += 1
        self.load_s += took_s
