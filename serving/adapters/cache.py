"""Adapters in RAM, ready to be copied into slots: loaded once however many ask for them, in turns by project.

What sequences use stays, and counts; of the rest the least recently used go when room is needed. While those in use leave
no room, what is to be loaded waits. A project's own may take three quarters of it, so that others find some.

Everything that takes time happens in threads of its own, so no stream waits for somebody else's cold adapter.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from foundation.errors import ModelNotFound
from serving.admission import Admission
from serving.engine.tier_counts import TierCounts
from serving.quotas import Quotas
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobStore

from .disk import DiskTier
from .ref import AdapterRef, AdapterTooLarge, NotLoadedInTime

NUM_LOADERS = 2
MAX_WAIT_S = 300.0
"""For an adapter to be loaded, and for room to load it into."""
SETTING = "LUTHIER_SERVING_ADAPTER_RAM_BYTES"


class Sized(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...


Loaded = TypeVar("Loaded", bound=Sized)


@dataclass(eq=False)
class _Load(Generic[Loaded]):
    """An adapter on its way to RAM."""

    ref: AdapterRef
    project: str
    task: asyncio.Task[Loaded] = field(init=False)
    may_begin: asyncio.Event = field(default_factory=asyncio.Event)
    num_asking: int = 0
    is_void: bool = False
    """The adapter was deleted meanwhile, or nobody asks for it any more."""


class AdapterCache(Generic[Loaded]):
    """Used on the event loop. What it holds is within `ram_bytes` but for what is being read just now."""

    def __init__(
        self,
        disk: DiskTier,
        parse: Callable[[AdapterRef, Path], Loaded],
        *,
        ram_bytes: int,
        admission: Admission | None = None,
    ) -> None:
        """`parse` makes an adapter of what is in its folder; it may raise `ArtifactError`. `admission` knows which
        adapters are in use."""
        self.disk = disk
        self.budget_bytes = ram_bytes
        self.counts = TierCounts()
        self._parse = parse
        self._admission = admission or Admission(Quotas())
        self._admission.when_freed = self._begin
        # The least recently used first.
        self._in_ram: OrderedDict[str, Loaded] = OrderedDict()
        self._owners: dict[str, str] = {}
        """The projects that asked last."""
        self._loading: dict[AdapterRef, _Load[Loaded]] = {}
        # Those that have not begun by project, in the order of their turns; and those that have.
        self._waiting: dict[str, deque[_Load[Loaded]]] = {}
        self._begun: set[_Load[Loaded]] = set()
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="adapter-loader")

    @property
    def ids_in_ram(self) -> list[str]:
        return list(self._in_ram)

    @property
    def size_bytes(self) -> int:
        """Of what is there or in use, in RAM."""
        return sum(adapter.size_bytes for adapter in self._held().values())

    def peek(self, adapter_id: str, project: str = "") -> Loaded | None:
        """The adapter if it is in RAM."""
        if adapter_id not in self._in_ram:
            return None
        self._in_ram.move_to_end(adapter_id)
        self._owners[adapter_id] = project
        self.counts.num_hits += 1
        return self._in_ram[adapter_id]

    async def get(self, ref: AdapterRef, project: str = "") -> Loaded:
        """The adapter, loaded first if need be.

        Raises what `DiskTier.read` raises, and `Unavailable` if there is no room for it. What failed is not
        cached: the next request tries again.
        """
        adapter = self.peek(ref.id, project)
        if adapter is not None:
            return adapter
        load = self._loading.get(ref)
        if load is None:
            self.counts.num_misses += 1
            load = self._loading[ref] = _Load(ref, project)
            load.task = asyncio.create_task(self._load(load))
        load.num_asking += 1
        try:
            # A client that goes away must not take the load away from the others who wait for it.
            return await asyncio.shield(load.task)
        finally:
            load.num_asking -= 1
            if not load.num_asking and load not in self._begun:
                self._give_up(load)

    async def forget(self, adapter_id: str) -> None:
        """Remove the adapter from RAM and disk; who waits for it to be loaded hears that it is gone."""
        self._in_ram.pop(adapter_id, None)
        self._owners.pop(adapter_id, None)
        for load in [load for load in self._loading.values() if load.ref.id == adapter_id]:
            self._give_up(load)
        await asyncio.to_thread(self.disk.forget, adapter_id)

    async def deleted_ids(self, others: Iterable[str] = ()) -> set[str]:
        """The adapters in RAM or on disk, and of `others`, whose blob is gone: nobody may use them any more."""
        blobs = self.disk.blobs
        if blobs is None:
            return set()
        keys = {i: artifact_keys.key(i) for i in self.disk.ids.union(self._in_ram, others)}
        return await asyncio.to_thread(_without_blob, blobs, keys)

    def close(self) -> None:
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _load(self, load: _Load[Loaded]) -> Loaded:
        ref = load.ref
        try:
            await self._turn(load)
            began_s = time.perf_counter()
            adapter = await asyncio.get_running_loop().run_in_executor(
                self._loaders, self.disk.read, ref, lambda folder: self._parse(ref, folder)
            )
            if load.is_void:
                raise ModelNotFound(ref.id)
            if adapter.size_bytes > self.budget_bytes:
                raise AdapterTooLarge(ref.id, adapter.size_bytes, self.budget_bytes, SETTING)
            self.counts.note_load(time.perf_counter() - began_s)
            self._in_ram[ref.id], self._owners[ref.id] = adapter, load.project
            return adapter
        finally:
            self._give_up(load)
            self._begun.discard(load)
            self._evict()
            self._begin()

    def _give_up(self, load: _Load[Loaded]) -> None:
        """Who asks from now on asks anew."""
        load.is_void = True
        load.may_begin.set()
        if self._loading.get(load.ref) is load:
            del self._loading[load.ref]

    async def _turn(self, load: _Load[Loaded]) -> None:
        """Wait until it is the load's turn and there is room for it."""
        self._waiting.setdefault(load.project, deque()).append(load)
        self._begin()
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await load.may_begin.wait()
        except TimeoutError:
            raise NotLoadedInTime(load.ref.id) from None
        finally:
            if load not in self._begun:
                self._leave_queue(load)
        if load.is_void:
            raise ModelNotFound(load.ref.id)

    def _begin(self) -> None:
        """Let loads begin, as far as there are threads for them and room."""
        while self._waiting and len(self._begun) < NUM_LOADERS:
            load = self._next()
            if load is None:
                return
            self._leave_queue(load)
            self._begun.add(load)
            load.may_begin.set()

    def _next(self) -> _Load[Loaded] | None:
        """Of the project that uses the least; where several use as little, of the one that waited longest."""
        held = self._held()
        used_bytes = dict.fromkeys(self._waiting, 0)
        for adapter_id in self._admission.adapters:
            owner = self._owners.get(adapter_id, "")
            used_bytes[owner] = used_bytes.get(owner, 0) + held[adapter_id].size_bytes
        for load in self._begun:
            used_bytes[load.project] = used_bytes.get(load.project, 0) + load.ref.size_bytes
        for project in sorted(self._waiting, key=lambda project: used_bytes[project]):
            load = self._waiting[project][0]
            num_bytes = load.ref.size_bytes
            own_bytes, all_bytes = used_bytes[project], sum(used_bytes.values())
            fits_beside_others = all_bytes + num_bytes <= self.budget_bytes
            leaves_some = 4 * (own_bytes + num_bytes) <= 3 * self.budget_bytes
            if not all_bytes or (fits_beside_others and (leaves_some or not own_bytes)):
                return load
        return None

    def _leave_queue(self, load: _Load[Loaded]) -> None:
        """The project's next one comes after those of all others."""
        queue = self._waiting.pop(load.project)
        queue.remove(load)
        if queue:
            self._waiting[load.project] = queue

    def _evict(self) -> None:
        """What nobody uses goes until the rest fits."""
        total_bytes = self.size_bytes
        for adapter_id in list(self._in_ram):
            if total_bytes <= self.budget_bytes:
                return
            if adapter_id not in self._admission.adapters:
                total_bytes -= self._in_ram.pop(adapter_id).size_bytes
                del self._owners[adapter_id]
                self.counts.num_evictions += 1

    def _held(self) -> dict[str, Sized]:
        return {**self._in_ram, **self._admission.adapters}


def _without_blob(blobs: BlobStore, keys: dict[str, str]) -> set[str]:
    return {adapter_id for adapter_id, key in keys.items() if key not in blobs.list(key)}
