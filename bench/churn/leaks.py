"""What a server that nobody uses must not hold any more."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from dataclasses import dataclass

from serving.served_base import ServedBase

QUIET_S = 20.0
"""Within so long all that clients have left must have ended."""


_POOLS = ("asyncio", "AnyIO", "adapter-loader", "model-loader", "text", "grammars")


@dataclass(frozen=True)
class Stock:
    """What the process has."""

    num_threads: int
    """But for those of pools, which come as they are needed and stay, as many as their pool may have."""
    num_tasks: int
    num_files: int
    memory_bytes: int

    @classmethod
    def take(cls) -> Stock:
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as file:
            memory_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(
            sum(not thread.name.startswith(_POOLS) for thread in threading.enumerate()),
            len(asyncio.all_tasks()),
            len(os.listdir("/proc/self/fd")),
            memory_bytes,
        )


async def until_quiet(served: ServedBase) -> list[str]:
    """Wait for what is under way to end; gives what does not."""
    try:
        async with asyncio.timeout(QUIET_S):
            while left := _busy(served):
                await asyncio.sleep(0.05)
        return []
    except TimeoutError:
        return [f"still there after {QUIET_S} s: {left}"]


def _busy(served: ServedBase) -> dict[str, object]:
    threads = [served.thread, *(model.thread for model in served.whole_models._models.values())]
    cache = served.adapters
    found: dict[str, object] = {
        "sequences": sum(len(t.engine._places.all_sequences()) for t in threads),
        "running rows": sum(len(rows) for t in threads for rows in _running(t.engine).values()),
        "users of slots": sum(sum(t.engine.slots._num_users) for t in threads),
        "open requests": sum(not t.is_idle for t in threads),
        "admitted sequences": served.thread.admission._num_open.total(),
        "adapters in use": len(served.thread.admission.adapters),
        "loads": len(cache._loading) + len(cache._begun) + len(served.whole_models._loading),
        "reads of the disk": len(cache.disk._reads),
        "grammars being compiled": len(served.grammars._compiling),
    }
    return {name: number for name, number in found.items() if number}


def _running(engine: object) -> dict[object, list[object]]:
    return {key: list(rows) for key, rows in engine._cache._running.items()}  # type: ignore[attr-defined]


def beyond_budgets(served: ServedBase) -> list[str]:
    """At any time, but for what is being loaded just now."""
    cache, whole, grammars = served.adapters, served.whole_models, served.grammars
    places = {
        "adapters in slots": (served.engine.slots.size_bytes, served.engine.slots.budget_bytes),
        "adapters in RAM": (cache.size_bytes, cache.budget_bytes),
        "artifacts on the disk": (cache.disk.size_bytes, cache.disk.budget_bytes),
        "whole models": (whole.size_bytes, whole._budget_bytes),
        # They grow while they are followed, and are counted anew when the next one is compiled.
        "grammars": (grammars.size_bytes, grammars._budget_bytes * 5 // 4),
    }
    on_disk = sum(f.stat().st_size for f in cache.disk._directory.rglob("*") if f.is_file())
    problems = [
        f"{name} take {size} bytes of {budget}"
        for name, (size, budget) in places.items()
        if budget is not None and size > budget
    ]
    if on_disk != cache.disk.size_bytes:
        problems.append(f"{on_disk} bytes are on the disk, and {cache.disk.size_bytes} known")
    return problems


def left_in_memory_for_keys_and_values(served: ServedBase) -> list[str]:
    """Once every kept row is given up."""
    cache = served.engine._cache
    while cache._evict_one():
        continue
    left = Counter(row.key for rows in cache._running.values() for row in rows)
    used = cache.pool.num_used_tokens
    return [f"{used} tokens of keys and values are used by nobody, {left}"] if used else []


def grown(before: Stock, after: Stock, *, memory_bytes: int) -> list[str]:
    """What there is more of than at first, beyond what may be."""
    allowed = {"num_threads": 0, "num_tasks": 0, "num_files": 2, "memory_bytes": memory_bytes}
    return [
        f"{name} grew from {getattr(before, name)} to {getattr(after, name)}"
        for name, most in allowed.items()
        if getattr(after, name) > getattr(before, name) + most
    ]
