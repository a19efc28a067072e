"""Adapters share the room in RAM, on disk and in slots, load in turns by project, and are gone once they are deleted."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath

import pytest

from foundation.errors import ModelNotFound
from modeling.artifacts.artifact import ArtifactError
from serving.adapters import cache as adapter_cache
from serving.adapters.cache import NUM_LOADERS, AdapterCache
from serving.adapters.disk import DiskTier
from serving.adapters.ref import AdapterRef, AdapterTooLarge, AdapterUnusable, NotLoadedInTime
from serving.admission import Admission
from serving.engine.sequence import Generate, Sequence
from serving.engine.slots.lora import Adapter
from serving.quotas import Quotas
from storage.blobs.blobs import BlobStore, open_store
from tests.serving.engine.load import Slots
from tests.serving.parts import ref_of, tar_of, write_adapter
from text.tokenizer import Tokenizer


class Sized(Adapter):
    """Takes so many bytes of RAM as its blob says."""

    size_bytes = 100


@dataclass
class Scene:
    """A cache whose adapters are as small as files can be, and count as 100 bytes each."""

    cache: AdapterCache[Adapter]
    admission: Admission
    blobs: BlobStore
    content: bytes
    tokenizer: Tokenizer
    may_parse: threading.Event
    parsed: list[str]

    def ref(self, name: str) -> AdapterRef:
        ref = ref_of(name, self.content)
        with self.blobs.writer(ref.blob_key) as writer:
            writer.write(self.content)
            writer.commit()
        return ref

    def use(self, adapter: Adapter, project: str = "p") -> Sequence:
        request = Generate(prompt=[1], adapter=adapter, cache_salt=project)
        sequence = Sequence(request, 1, self.tokenizer, lambda _: None)
        self.admission.enter(sequence)
        return sequence


@pytest.fixture
def scene(
    tmp_path: Path, base_path: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    content = tar_of(write_adapter(base_path, tmp_path / "a"))
    Sized.size_bytes = len(content)
    blobs = open_store(f"file://{tmp_path}/blobs")
    may_parse, parsed = threading.Event(), list[str]()
    may_parse.set()

    def parse(ref: AdapterRef, _: Path) -> Adapter:
        may_parse.wait(20)
        parsed.append(ref.id)
        if ref.id == "broken":
            raise ArtifactError("it is broken")
        return Sized(ref.id, {})

    admission = Admission(Quotas())
    disk = DiskTier(blobs, tmp_path / "cache", budget_bytes=10 * len(content))
    cache = AdapterCache(disk, parse, ram_bytes=4 * len(content), admission=admission)
    return Scene(cache, admission, blobs, content, tokenizer, may_parse, parsed)


async def until_parsing(scene: Scene, *names: str) -> None:
    async with asyncio.timeout(20):
        while {load.ref.id for load in scene.cache._begun} != set(names):
            await asyncio.sleep(0.001)


async def test_what_is_in_use_stays_and_the_next_one_waits_for_room(scene: Scene) -> None:
    used = [scene.use(await scene.cache.get(scene.ref(name), "p"), "p") for name in "abc"]
    waiting = asyncio.create_task(scene.cache.get(scene.ref("d"), "p"))
    # Another project finds the last quarter.
    other = scene.use(await scene.cache.get(scene.ref("e"), "q"), "q")
    later = asyncio.create_task(scene.cache.get(scene.ref("f"), "q"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert not later.done()
    assert scene.cache.ids_in_ram == ["a", "b", "c", "e"]
    # Whose project uses less is next, though it came later.
    scene.admission.leave(used[0])
    assert (await later).id == "f"
    assert scene.cache.ids_in_ram == ["b", "c", "e", "f"]
    assert not waiting.done()
    scene.use(await later, "q")
    scene.admission.leave(used[1])
    assert (await waiting).id == "d"
    assert scene.cache.size_bytes <= scene.cache.budget_bytes
    assert scene.cache.counts.num_evictions == 2
    scene.admission.leave(other)


async def test_who_waits_for_room_in_vain_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_cache, "MAX_WAIT_S", 0.01)
    for name in "abc":
        scene.use(await scene.cache.get(scene.ref(name)))
    with pytest.raises(NotLoadedInTime, match="model d is still being loaded, or waits"):
        await scene.cache.get(scene.ref("d"))
    assert not scene.cache._waiting


async def test_projects_take_turns_at_loading(scene: Scene) -> None:
    """A project that asks for many cold adapters at once is not before another's first."""
    scene.may_parse.clear()
    flood = [f"many-{number}" for number in range(20)]
    asked = [asyncio.create_task(scene.cache.get(scene.ref(name), "many")) for name in flood]
    await until_parsing(scene, *flood[:NUM_LOADERS])
    asked.append(asyncio.create_task(scene.cache.get(scene.ref("one"), "one")))
    await asyncio.sleep(0)
    scene.may_parse.set()
    await asyncio.gather(*asked)
    assert scene.parsed.index("one") <= 2 * NUM_LOADERS


async def test_nobody_loads_what_nobody_asks_for_any_more(scene: Scene) -> None:
    scene.may_parse.clear()
    names = [f"a{number}" for number in range(10)]
    asked = [asyncio.create_task(scene.cache.get(scene.ref(name))) for name in names]
    await until_parsing(scene, *names[:NUM_LOADERS])
    for task in asked[NUM_LOADERS:]:
        task.cancel()
    await asyncio.gather(*asked[NUM_LOADERS:], return_exceptions=True)
    again = asyncio.create_task(scene.cache.get(scene.ref(names[-1])))
    scene.may_parse.set()
    await asyncio.gather(*asked[:NUM_LOADERS], again)
    assert set(scene.parsed) == {*names[:NUM_LOADERS], names[-1]}


async def test_what_is_deleted_while_it_is_loaded_is_not_there_afterwards(scene: Scene) -> None:
    scene.may_parse.clear()
    names = ["a", "b", "c"]
    asked = [asyncio.create_task(scene.cache.get(scene.ref(name))) for name in names]
    await until_parsing(scene, "a", "b")
    for name in ("a", "c"):
        await scene.cache.forget(name)
    # Who asks after that asks the blob store anew.
    again = asyncio.create_task(scene.cache.get(scene.ref("a")))
    await asyncio.sleep(0)
    scene.may_parse.set()
    found = await asyncio.gather(*asked, again, return_exceptions=True)
    assert [type(each) for each in found] == [ModelNotFound, Sized, ModelNotFound, Sized]
    await scene.cache.forget("a")
    assert scene.cache.ids_in_ram == ["b"]
    assert scene.cache.disk.ids == {"b"}


async def test_one_that_is_larger_than_all_room_is_told_with_the_numbers(scene: Scene) -> None:
    Sized.size_bytes = (5 << 20) + 1
    scene.cache.budget_bytes = 5 << 20
    with pytest.raises(AdapterTooLarge, match=r"a needs 6 MiB.* has 5 MiB .*ADAPTER_RAM_BYTES"):
        await scene.cache.get(scene.ref("a"))
    assert scene.cache.ids_in_ram == []


async def test_the_disk_stays_within_its_room(scene: Scene) -> None:
    size_bytes = 3 * len(scene.content)
    scene.cache.disk.budget_bytes = size_bytes
    for number in range(8):
        await scene.cache.get(scene.ref(f"a{number}"))
        assert scene.cache.disk.size_bytes <= size_bytes
    assert "a7" in scene.cache.disk.ids
    scene.cache.disk.budget_bytes = 10
    await scene.cache.get(scene.ref("large"))
    assert scene.cache.disk.ids == set()


class Hashed(PosixPath):
    num_hashed = 0

    def __hash__(self) -> int:
        Hashed.num_hashed += 1
        return super().__hash__()


def test_what_is_on_disk_is_told_in_one_go(tmp_path: Path) -> None:
    """While a path is hashed, which is Python's code, another thread may change what is listed."""
    for number in range(3):
        (tmp_path / f"a{number}.0").mkdir()
    disk = DiskTier(None, Hashed(tmp_path), budget_bytes=1)
    num_hashed = Hashed.num_hashed
    assert disk.ids == {"a0", "a1", "a2"}
    assert disk.size_bytes == 0
    assert Hashed.num_hashed == num_hashed > 0


async def test_each_place_counts_what_happens_there(scene: Scene) -> None:
    ram, disk = scene.cache, scene.cache.disk
    await ram.get(scene.ref("a"))
    await ram.get(scene.ref("a"))
    with pytest.raises(AdapterUnusable):
        await ram.get(scene.ref("broken"))
    assert (ram.counts.num_hits, ram.counts.num_misses, ram.counts.num_loads) == (1, 2, 1)
    assert (disk.counts.num_hits, disk.counts.num_misses, disk.counts.num_loads) == (0, 2, 2)
    assert (disk.blob_counts.num_hits, disk.blob_counts.num_misses) == (2, 0)
    assert ram.counts.load_s > disk.counts.load_s / 2 > 0


def test_slots_have_a_budget_in_bytes() -> None:
    slots = Slots(4)
    Sized.size_bytes = 100
    small = [Sized(name, {}) for name in "abcd"]
    slots.budget_bytes = 250
    first = slots.acquire(small[0])
    assert first is not None
    assert slots.acquire(small[1]) is not None
    assert slots.acquire(small[2]) is None
    assert not slots.has_room(small[2])
    slots.release(first)
    assert slots.acquire(small[2]) is not None
    assert set(slots.loaded_ids) == {"b", "c"}
    assert slots.size_bytes == 200
    counts = replace(slots.counts)
    assert (counts.num_misses, counts.num_hits, counts.num_evictions) == (3, 0, 1)
