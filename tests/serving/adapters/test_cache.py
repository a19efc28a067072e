from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foundation.errors import BlobCorrupt, BlobMissing, InvalidRequest, ModelNotFound
from serving.adapters.cache import AdapterCache
from serving.adapters.disk import DiskTier
from serving.adapters.ref import AdapterRef, AdapterUnusable
from serving.engine.slots.lora import Adapter
from storage.blobs.blobs import BlobStore, open_store
from tests.serving.parts import read_adapter, ref_of, tar_of, write_adapter

ADAPTER_BYTES = 100_000
Parse = Callable[[AdapterRef, Path], Adapter]


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return open_store(f"file://{tmp_path}/blobs")


@pytest.fixture(scope="module")
def folder(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(base_path, tmp_path_factory.mktemp("adapters") / "a")


def make_cache(
    tmp_path: Path,
    blobs: BlobStore | None,
    base_path: Path,
    *,
    parse: Parse | None = None,
    ram_bytes: int = 1 << 30,
    disk_bytes: int = 1 << 30,
) -> AdapterCache[Adapter]:
    def read(ref: AdapterRef, path: Path) -> Adapter:
        return read_adapter(base_path, path, ref.id)

    disk = DiskTier(blobs, tmp_path / "cache", budget_bytes=disk_bytes)
    return AdapterCache(disk, parse or read, ram_bytes=ram_bytes)


def store(blobs: BlobStore, adapter_id: str, content: bytes) -> AdapterRef:
    ref = ref_of(adapter_id, content)
    with blobs.writer(ref.blob_key) as writer:
        writer.write(content)
        writer.commit()
    return ref


def tar_with(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for member, data in members:
            member.size = member.size or len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def cached_folders(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "cache"))


async def test_adapter_comes_from_the_blob_store_then_from_disk_then_from_ram(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    ref = store(blobs, "adapter-a", tar_of(folder))
    cache = make_cache(tmp_path, blobs, base_path)
    adapter = await cache.get(ref)
    assert adapter.pairs.keys() == read_adapter(base_path, folder, "adapter-a").pairs.keys()
    blobs.delete(ref.blob_key)
    assert await cache.get(ref) is adapter
    later = make_cache(tmp_path, blobs, base_path)
    assert (await later.get(ref)).id == "adapter-a"
    assert cached_folders(tmp_path) == [f"adapter-a.{ref.sha256}"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
async def test_an_adapter_damaged_on_disk_is_fetched_anew(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path, name: str, damage: str
) -> None:
    ref = store(blobs, "adapter-a", tar_of(folder))
    first = await make_cache(tmp_path, blobs, base_path).get(ref)
    file = tmp_path / "cache" / f"adapter-a.{ref.sha256}" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:-1])
    again = await make_cache(tmp_path, blobs, base_path).get(ref)
    for layer, pair in first.pairs.items():
        assert torch.equal(again.pairs[layer].a, pair.a)
        assert all(map(torch.equal, again.pairs[layer].bs, pair.bs))


async def test_adapters_whose_blob_is_gone_are_known(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    refs = [store(blobs, f"adapter-{name}", tar_of(folder)) for name in ("a", "ab", "b")]
    cache = make_cache(tmp_path, blobs, base_path)
    for ref in refs:
        await cache.get(ref)
    assert await cache.deleted_ids() == set()
    blobs.delete(refs[0].blob_key)
    blobs.delete(refs[2].blob_key)
    assert await cache.deleted_ids() == {"adapter-a", "adapter-b"}
    later = make_cache(tmp_path, blobs, base_path)
    assert await later.deleted_ids() == {"adapter-a", "adapter-b"}


async def test_many_requests_for_a_cold_adapter_load_it_once(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    num_parsed = 0
    may_parse = threading.Event()

    def parse(ref: AdapterRef, path: Path) -> Adapter:
        nonlocal num_parsed
        num_parsed += 1
        may_parse.wait(10)
        return read_adapter(base_path, path, ref.id)

    ref = store(blobs, "adapter-a", tar_of(folder))
    cache = make_cache(tmp_path, blobs, base_path, parse=parse)
    tasks = [asyncio.create_task(cache.get(ref)) for _ in range(5)]
    await asyncio.sleep(0)
    # The client that came first leaves; the others are served all the same.
    tasks[0].cancel()
    may_parse.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert len({id(adapter) for adapter in found[1:]}) == 1
    assert num_parsed == 1


async def test_damaged_blob_is_refused_and_leaves_nothing(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    content = bytearray(tar_of(folder))
    ref = ref_of("adapter-a", bytes(content))
    content[len(content) // 2] ^= 1
    store(blobs, "adapter-a", bytes(content))
    cache = make_cache(tmp_path, blobs, base_path)
    for _ in range(2):
        with pytest.raises(BlobCorrupt) as caught:
            await cache.get(ref)
        assert caught.value.status == 500
    assert cached_folders(tmp_path) == []
    # Mended, it works at once: the failure was not remembered.
    store(blobs, "adapter-a", tar_of(folder))
    assert (await cache.get(ref)).id == "adapter-a"


async def test_missing_blob_is_said_to_be_missing(
    tmp_path: Path, blobs: BlobStore, base_path: Path
) -> None:
    cache = make_cache(tmp_path, blobs, base_path)
    with pytest.raises(BlobMissing):
        await cache.get(ref_of("adapter-a", b"never stored"))


def hostile_archives() -> dict[str, bytes]:
    config = tarfile.TarInfo("adapter_config.json")
    link = tarfile.TarInfo("adapter_model.safetensors")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    outside = tarfile.TarInfo("../adapter_model.safetensors")
    giant = tarfile.TarInfo("adapter_model.safetensors")
    giant.size = 1 << 40
    whole = tar_with((tarfile.TarInfo("adapter_model.safetensors"), b"x"))
    return {
        "link": tar_with((config, b"{}"), (link, b"")),
        "outside": tar_with((config, b"{}"), (outside, b"x")),
        "giant": giant.tobuf() + bytes(1024),
        "twice": tar_with(
            (tarfile.TarInfo("adapter_config.json"), b"{}"),
            (tarfile.TarInfo("adapter_config.json"), b"{}"),
        ),
        "incomplete": whole,
        "large config": tar_with((tarfile.TarInfo("adapter_config.json"), bytes(2 << 20))),
        "no tar": b"these are not the bytes of an archive" * 100,
        "empty config": tar_with(
            (tarfile.TarInfo("adapter_config.json"), b"{}"),
            (tarfile.TarInfo("adapter_model.safetensors"), b"x"),
        ),
    }


@pytest.mark.parametrize("kind", list(hostile_archives()))
async def test_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, blobs: BlobStore, base_path: Path, kind: str
) -> None:
    ref = store(blobs, "adapter-a", hostile_archives()[kind])
    cache = make_cache(tmp_path, blobs, base_path)
    with pytest.raises(AdapterUnusable, match="adapter-a cannot be used"):
        await cache.get(ref)
    assert cached_folders(tmp_path) == []
    assert not (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"config.json": b"{}", "model.safetensors": b"all weights"},
            "none of the kind 'lora': its archive lacks adapter_config.json",
        ),
        (
            {
                "adapter_config.json": b'{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 16}',
                "adapter_model.safetensors": b"prompt_embeddings",
            },
            "not describe a LoRA adapter: its peft_type is 'PREFIX_TUNING'",
        ),
    ],
    ids=["full", "prefix"],
)
async def test_an_artifact_of_another_kind_is_refused_by_what_it_is(
    tmp_path: Path, blobs: BlobStore, base_path: Path, files: dict[str, bytes], problem: str
) -> None:
    content = tar_with(*((tarfile.TarInfo(name), file) for name, file in files.items()))
    ref = store(blobs, "artifact-a", content)
    with pytest.raises(AdapterUnusable, match=f"artifact-a cannot be used.*{problem}"):
        await make_cache(tmp_path, blobs, base_path).get(ref)
    assert cached_folders(tmp_path) == []


async def test_other_files_in_the_archive_are_left_there(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    members = [
        (tarfile.TarInfo(f"./{name}"), (folder / name).read_bytes())
        for name in ("adapter_config.json", "adapter_model.safetensors")
    ]
    content = tar_with(*members, (tarfile.TarInfo("README.md"), b"words"))
    ref = store(blobs, "adapter-a", content)
    await make_cache(tmp_path, blobs, base_path).get(ref)
    (cached,) = (tmp_path / "cache").iterdir()
    assert sorted(file.name for file in cached.iterdir()) == [
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


async def test_caches_drop_what_was_used_longest_ago(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    content = tar_of(folder)
    refs = [store(blobs, f"adapter-{name}", content) for name in "abc"]
    size_bytes = (await make_cache(tmp_path / "x", blobs, base_path).get(refs[0])).size_bytes
    # The archive has padding, the folder checksums.
    disk_bytes = len(content) + sum(file.stat().st_size for file in folder.iterdir()) + 500
    cache = make_cache(tmp_path, blobs, base_path, ram_bytes=2 * size_bytes, disk_bytes=disk_bytes)
    for index in (0, 1, 0, 2):
        await cache.get(refs[index])
    assert cache.ids_in_ram == ["adapter-a", "adapter-c"]
    assert [name[:9] for name in cached_folders(tmp_path)] == ["adapter-b", "adapter-c"]


async def test_forgotten_adapter_is_fetched_again(
    tmp_path: Path, blobs: BlobStore, base_path: Path, folder: Path
) -> None:
    ref = store(blobs, "adapter-a", tar_of(folder))
    cache = make_cache(tmp_path, blobs, base_path)
    await cache.get(ref)
    await cache.forget("adapter-a")
    assert cache.peek("adapter-a") is None
    assert cached_folders(tmp_path) == []
    assert (await cache.get(ref)).id == "adapter-a"


def test_leftovers_of_a_crash_are_removed_at_start(tmp_path: Path, base_path: Path) -> None:
    (tmp_path / "cache" / ".half").mkdir(parents=True)
    make_cache(tmp_path, None, base_path)
    assert cached_folders(tmp_path) == []


@pytest.mark.parametrize("adapter_id", ["../etc", "a/b", "", ".hidden", "a" * 200])
def test_id_that_is_no_file_name_is_no_model(adapter_id: str) -> None:
    with pytest.raises(ModelNotFound):
        AdapterRef(adapter_id, hashlib.sha256(b"").hexdigest(), 1)


@pytest.mark.parametrize(("sha256", "size_bytes"), [("abc", 1), ("A" * 64, 1), ("a" * 64, 0)])
def test_malformed_digest_or_size_is_refused(sha256: str, size_bytes: int) -> None:
    with pytest.raises(InvalidRequest):
        AdapterRef("adapter-a", sha256, size_bytes)
