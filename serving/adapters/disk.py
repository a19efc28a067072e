"""Artifacts unpacked on the disk, fetched from the blob store when they are not there, within a budget.

The least recently used go first, but none that is being read. To be used in threads.
"""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from foundation.errors import BlobMissing, LuthierError, ModelNotFound
from modeling.artifacts.artifact import ArtifactError
from serving.engine.tier_counts import TierCounts
from storage.blobs.blobs import BlobStore

from .files import CHECKSUMS, checksums, is_intact, unpack
from .ref import AdapterRef, AdapterUnusable

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Read:
    """Somebody is at an artifact's folder."""

    folder: Path
    coming_bytes: int = 0
    """Of a blob that is being fetched."""
    is_void: bool = False
    """The artifact was deleted meanwhile."""


class DiskTier:
    def __init__(self, blobs: BlobStore | None, directory: Path, *, budget_bytes: int) -> None:
        self.blobs = blobs
        self._directory = directory
        self.budget_bytes = budget_bytes
        self.counts = TierCounts()
        self.blob_counts = TierCounts()
        """Of the blob store below. Nothing is loaded into it, or evicted."""
        self._lock = threading.Lock()
        self._reads: set[_Read] = set()
        directory.mkdir(parents=True, exist_ok=True)
        for leftover in directory.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folders = (path for path in directory.iterdir() if path.is_dir())
        there = sorted(folders, key=lambda folder: folder.stat().st_mtime)
        # Their sizes, the least recently used first. It is listed without the lock, which a plain dict allows: an
        # OrderedDict hashes each path on the way, which lets another thread change it meanwhile.
        self._sizes = {folder: _size_bytes(folder) for folder in there}

    @property
    def ids(self) -> set[str]:
        return {_id_of(folder) for folder in list(self._sizes)}

    @property
    def size_bytes(self) -> int:
        return sum(list(self._sizes.values()))

    def read(self, ref: AdapterRef, use: Callable[[Path], T]) -> T:
        """What `use` makes of the artifact's folder, which is fetched first if need be.

        Raises `BlobMissing` or `BlobCorrupt` if the blob is not what `ref` says, `AdapterUnusable`, and
        `ModelNotFound` if it is forgotten meanwhile; `use` may raise `ArtifactError`.
        """
        read = _Read(self._directory / f"{ref.id}.{ref.sha256}")
        with self._lock:
            self._reads.add(read)
        try:
            if is_intact(read.folder, ref.kind):
                self._note_use(ref, read)
            else:
                # Missing, or damaged since it was unpacked.
                self.counts.num_misses += 1
                with self._lock:
                    self._remove(read.folder)
                self._fetch(ref, read)
            found = use(read.folder)
            if read.is_void:
                raise ModelNotFound(ref.id)
            return found
        except ArtifactError as error:
            if read.is_void:
                raise ModelNotFound(ref.id) from None
            with self._lock:
                self._remove(read.folder)
            raise AdapterUnusable(
                f"The adapter {ref.id} cannot be used: {error}", code="adapter_unusable"
            ) from error
        finally:
            with self._lock:
                self._reads.discard(read)
                # What is larger than the whole budget stays for as long as it is read.
                self._evict()

    def forget(self, adapter_id: str) -> None:
        """Remove what there is of the artifact, also what is on its way."""
        with self._lock:
            for read in self._reads:
                if _id_of(read.folder) == adapter_id:
                    read.is_void = True
            for folder in [folder for folder in self._sizes if _id_of(folder) == adapter_id]:
                self._remove(folder)

    def _fetch(self, ref: AdapterRef, read: _Read) -> None:
        """Blob -> folder, which appears whole or not at all."""
        if self.blobs is None:
            raise LuthierError("This server has no blob store to load adapters from.")
        began_s = time.perf_counter()
        with self._lock:
            # The files are as large as the archive, but for its padding.
            read.coming_bytes = ref.size_bytes
            self._evict()
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=self._directory))
        try:
            archive = temporary / "adapter.tar"
            try:
                self.blobs.get_file(
                    ref.blob_key, archive, size_bytes=ref.size_bytes, sha256=ref.sha256
                )
            except BlobMissing:
                self.blob_counts.num_misses += 1
                raise
            self.blob_counts.num_hits += 1
            unpacked = temporary / "unpacked"
            unpacked.mkdir()
            try:
                unpack(archive, unpacked, ref.kind)
            except tarfile.TarError as error:
                raise ArtifactError(str(error)) from error
            # Before it is hashed: on a small disk there is no room for both.
            archive.unlink()
            (unpacked / CHECKSUMS).write_text(checksums(unpacked, ref.kind))
            with self._lock:
                if read.is_void:
                    raise ModelNotFound(ref.id)
                read.coming_bytes = 0
                if not read.folder.is_dir():
                    unpacked.rename(read.folder)
                self._sizes[read.folder] = _size_bytes(read.folder)
            self.counts.note_load(time.perf_counter() - began_s)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _note_use(self, ref: AdapterRef, read: _Read) -> None:
        folder = read.folder
        with self._lock:
            if read.is_void:
                raise ModelNotFound(ref.id)
            self.counts.num_hits += 1
            # For the next start.
            os.utime(folder)
            self._sizes[folder] = self._sizes.pop(folder, 0) or _size_bytes(folder)

    def _evict(self) -> None:
        """Make room for what is being fetched. To be called under the lock, as `_remove`."""
        total_bytes = self.size_bytes + sum(read.coming_bytes for read in self._reads)
        being_read = {read.folder for read in self._reads}
        for folder, size_bytes in list(self._sizes.items()):
            if total_bytes <= self.budget_bytes:
                return
            if folder not in being_read:
                self._remove(folder)
                total_bytes -= size_bytes
                self.counts.num_evictions += 1

    def _remove(self, folder: Path) -> None:
        self._sizes.pop(folder, None)
        shutil.rmtree(folder, ignore_errors=True)


def _id_of(folder: Path) -> str:
    return folder.name.rpartition(".")[0]


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
