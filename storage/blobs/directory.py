"""Blobs as files below one directory: what the embedded stack uses."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from foundation.errors import DISK_FULL, BlobCorrupt, BlobError, BlobMissing, StorageFull

from . import blobs
from .blobs import CHUNK_BYTES, BlobInfo

# Writes in progress live here; no key can name it, because a key has no part that begins with a dot.
_PARTIAL = ".partial"
_ABANDONED_AFTER_S = 24 * 3600


class DirectoryBlobStore:
    """See `blobs.BlobStore`. Every process that opens the same directory sees the same blobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._partial = root / _PARTIAL
        with _errors():
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._partial.mkdir(mode=0o700, exist_ok=True)
            _remove_abandoned(self._partial)

    def writer(self, key: str) -> DirectoryBlobWriter:
        return DirectoryBlobWriter(blobs.check_key(key), self._path(key), self._partial)

    def put_file(self, key: str, path: Path) -> BlobInfo:
        return blobs.put_file(self, key, path)

    def read(
        self, key: str, *, size_bytes: int, sha256: str, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        chunks = self._chunks(key, self._path(key), size_bytes, chunk_bytes)
        next(chunks)  # opens the file, so that the call itself raises
        return blobs.verified(key, chunks, size_bytes=size_bytes, sha256=sha256)

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str) -> None:
        blobs.get_file(self, key, path, size_bytes=size_bytes, sha256=sha256)

    def delete(self, key: str) -> None:
        with _errors():
            self._path(key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[str]:
        top = prefix.rpartition("/")[0]
        start = self._path(top) if top else self.root
        for directory, _, names in os.walk(start):
            parent = Path(directory).relative_to(self.root)
            if parent.name != _PARTIAL:
                keys = ((parent / name).as_posix() for name in names)
                yield from (key for key in keys if key.startswith(prefix))

    def _path(self, key: str) -> Path:
        return self.root / blobs.check_key(key)

    def _chunks(self, key: str, path: Path, size_bytes: int, chunk_bytes: int) -> Iterator[bytes]:
        with _errors(key), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size_bytes:
                raise BlobCorrupt(f"blob {key} does not have {size_bytes} bytes")
            yield b""
            while chunk := file.read(chunk_bytes):
                yield chunk


class DirectoryBlobWriter:
    """A temporary file that is renamed to its key."""

    def __init__(self, key: str, path: Path, partial_dir: Path) -> None:
        self.key = key
        self._path = path
        self._partial = partial_dir / uuid.uuid4().hex
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        with _errors():
            descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._file.close()
        except OSError:
            if exc_info[0] is None:  # else the disk already said so, in write()
                raise
        finally:
            self._partial.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        with _errors():
            self._file.write(chunk)
        self._digest.update(chunk)
        self._num_bytes += len(chunk)

    def commit(self) -> BlobInfo:
        with _errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.replace(self._path)
            _sync_directory(self._path.parent)
        return BlobInfo(self.key, self._num_bytes, self._digest.hexdigest())


def _sync_directory(directory: Path) -> None:
    # The rename itself must survive a power loss, too.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(partial_dir: Path) -> None:
    """A process that was killed while writing left its temporary file here."""
    oldest_at = time.time() - _ABANDONED_AFTER_S
    for path in partial_dir.iterdir():
        try:
            if path.stat().st_mtime < oldest_at:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was faster


@contextmanager
def _errors(key: str = "") -> Iterator[None]:
    """What the file system says, in the words of the protocol."""
    try:
        yield
    except FileNotFoundError as error:
        raise BlobMissing(f"blob {key or error.filename} is not there") from error
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StorageFull("the disk of the blob directory is full") from error
        raise BlobError(f"the blob directory failed: {error}") from error
