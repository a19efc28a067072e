"""Adapters on their way to a slot: blob store -> disk cache -> RAM, loaded once however many ask for them.

Prefixes take the same way, and other kinds of artifacts the way to the disk.

Everything here happens in threads of its own, so no stream waits for somebody else's cold adapter.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tarfile
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from foundation.errors import InvalidRequest, LuthierError, ModelNotFound
from modeling.artifacts import lora
from modeling.artifacts.artifact import ArtifactError
from storage.blobs import artifact_keys
from storage.blobs.blobs import BlobStore

from .artifact_files import CHECKSUMS, MAX_FILE_BYTES, checksums, is_intact, unpack

NUM_LOADERS = 2
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Sized(Protocol):
    @property
    def size_bytes(self) -> int: ...


T = TypeVar("T")
Loaded = TypeVar("Loaded", bound=Sized)


class AdapterUnusable(LuthierError):
    """The adapter's files are what was stored, but they cannot be applied to this base."""


@dataclass(frozen=True)
class AdapterRef:
    """An adapter's id, what its blob must be, and the kind of artifact. Raises `InvalidRequest` where that is
    malformed."""

    id: str
    sha256: str
    size_bytes: int
    kind: str = lora.KIND

    def __post_init__(self) -> None:
        if not is_adapter_id(self.id):
            raise ModelNotFound(self.id)
        if not _SHA256.fullmatch(self.sha256) or self.size_bytes <= 0:
            raise InvalidRequest("an adapter's sha256 or size is malformed", param="model")
        if self.kind not in MAX_FILE_BYTES:
            raise InvalidRequest(
                f"artifacts of the kind '{self.kind}' are not served here", param="model"
            )

    @property
    def blob_key(self) -> str:
        return artifact_keys.key(self.id)


class AdapterCache(Generic[Loaded]):
    """Parsed adapters in RAM before unpacked ones on disk, each with a cap on its bytes.

    The least recently used go first. An adapter in use by a request outlives its place in the cache.
    """

    def __init__(
        self,
        blobs: BlobStore | None,
        directory: Path,
        parse: Callable[[AdapterRef, Path], Loaded],
        *,
        ram_bytes: int,
        disk_bytes: int,
    ) -> None:
        """`parse` makes an adapter of what is in its folder; it may raise `ArtifactError`."""
        self._blobs = blobs
        self._directory = directory
        self._parse = parse
        self._ram_bytes = ram_bytes
        self._disk_bytes = disk_bytes
        self._in_ram: OrderedDict[str, Loaded] = OrderedDict()
        self._loading: dict[AdapterRef, asyncio.Task[Loaded]] = {}
        self._disk = threading.Lock()
        # By folder: how many read it.
        self._readers: Counter[Path] = Counter()
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="adapter-loader")
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @property
    def ids_in_ram(self) -> list[str]:
        return list(self._in_ram)

    def peek(self, adapter_id: str) -> Loaded | None:
        """The adapter if it is in RAM."""
        if adapter_id in self._in_ram:
            self._in_ram.move_to_end(adapter_id)
        return self._in_ram.get(adapter_id)

    async def get(self, ref: AdapterRef) -> Loaded:
        """The adapter, loaded first if need be.

        Raises `BlobMissing` or `BlobCorrupt` if the blob is not what `ref` says, and `AdapterUnusable`.
        What failed is not cached: the next request tries again.
        """
        adapter = self.peek(ref.id)
        if adapter is not None:
            return adapter
        task = self._loading.get(ref)
        if task is None:
            task = asyncio.create_task(self._load(ref))
            self._loading[ref] = task
            task.add_done_callback(lambda _: self._loading.pop(ref, None))
        # A client that goes away must not take the load away from the others who wait for it.
        return await asyncio.shield(task)

    def forget(self, adapter_id: str) -> None:
        """Remove the adapter from RAM and disk."""
        self._in_ram.pop(adapter_id, None)
        with self._disk:
            for folder in self._directory.glob(f"{adapter_id}.*"):
                shutil.rmtree(folder, ignore_errors=True)

    async def deleted_ids(self, others: Iterable[str] = ()) -> set[str]:
        """The adapters in RAM or on disk, and of `others`, whose blob is gone: nobody may use them any more."""
        blobs = self._blobs
        if blobs is None:
            return set()
        ids = {folder.name.rpartition(".")[0] for folder in self._directory.glob("[!.]*")}
        keys = {i: artifact_keys.key(i) for i in ids.union(self._in_ram, others)}

        def find() -> set[str]:
            return {i for i, key in keys.items() if key not in blobs.list(key)}

        return await asyncio.get_running_loop().run_in_executor(self._loaders, find)

    def close(self) -> None:
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _load(self, ref: AdapterRef) -> Loaded:
        loop = asyncio.get_running_loop()
        adapter = await loop.run_in_executor(self._loaders, self._load_from_disk, ref)
        self._in_ram[ref.id] = adapter
        total_bytes = sum(a.size_bytes for a in self._in_ram.values())
        while total_bytes > self._ram_bytes and len(self._in_ram) > 1:
            total_bytes -= self._in_ram.popitem(last=False)[1].size_bytes
        return adapter

    def _load_from_disk(self, ref: AdapterRef) -> Loaded:
        return self.read(ref, lambda folder: self._parse(ref, folder))

    def read(self, ref: AdapterRef, use: Callable[[Path], T]) -> T:
        """What `use` makes of the artifact's folder, which is fetched first if need be. To be called in a thread.

        Raises what `get` raises; `use` may raise `ArtifactError`.
        """
        folder = self._folder(ref)
        with self._disk:
            self._readers[folder] += 1
        try:
            if is_intact(folder, ref.kind):
                os.utime(folder)
            else:
                # Missing, or damaged since it was unpacked.
                shutil.rmtree(folder, ignore_errors=True)
                self._fetch(ref, folder)
                self._evict_from_disk()
            return use(folder)
        except ArtifactError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise AdapterUnusable(
                f"The adapter {ref.id} cannot be used: {error}", code="adapter_unusable"
            ) from error
        finally:
            with self._disk:
                self._readers[folder] -= 1

    def _fetch(self, ref: AdapterRef, folder: Path) -> None:
        """Blob -> folder, which appears whole or not at all."""
        if self._blobs is None:
            raise LuthierError("This server has no blob store to load adapters from.")
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=self._directory))
        try:
            archive = temporary / "adapter.tar"
            self._blobs.get_file(
                ref.blob_key, archive, size_bytes=ref.size_bytes, sha256=ref.sha256
            )
            unpacked = temporary / "unpacked"
            unpacked.mkdir()
            try:
                unpack(archive, unpacked, ref.kind)
            except tarfile.TarError as error:
                raise ArtifactError(str(error)) from error
            # Before it is hashed: on a small disk there is no room for both.
            archive.unlink()
            (unpacked / CHECKSUMS).write_text(checksums(unpacked, ref.kind))
            if not folder.is_dir():
                unpacked.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _evict_from_disk(self) -> None:
        with self._disk:
            folders = sorted(self._directory.glob("[!.]*"), key=lambda f: f.stat().st_mtime)
            sizes = {f: sum(file.stat().st_size for file in f.iterdir()) for f in folders}
            total_bytes = sum(sizes.values())
            for folder in folders:
                if total_bytes <= self._disk_bytes:
                    return
                if not self._readers[folder]:
                    shutil.rmtree(folder, ignore_errors=True)
                    total_bytes -= sizes[folder]

    def _folder(self, ref: AdapterRef) -> Path:
        return self._directory / f"{ref.id}.{ref.sha256}"


def is_adapter_id(name: str) -> bool:
    """Whether `name` may be used as a file name and blob key."""
    return _ID.fullmatch(name) is not None
