"""Blobs: bytes under a key, in a directory or in a bucket, behind one small protocol.

A blob appears whole, at `commit()`, or not at all. Its size and SHA-256 are kept in the database and
checked on every read: the store itself is never trusted.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from foundation.errors import BlobCorrupt, BlobError
from foundation.settings import BadSetting

CHUNK_BYTES = 1 << 20

# One alphabet for both drivers, so that no key means something special to either: no dot files,
# no "..", nothing that wants quoting in a URL.
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,199})*")
_MAX_KEY_BYTES = 800


@dataclass(frozen=True)
class BlobInfo:
    """What a row keeps about a blob."""

    key: str
    size_bytes: int
    sha256: str
    """Lower-case hexadecimal."""


class BlobWriter(Protocol):
    """A blob in the making. Leaving the `with` block without `commit()` leaves nothing behind."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def write(self, chunk: bytes) -> None: ...

    def commit(self) -> BlobInfo: ...


class BlobStore(Protocol):
    """Synchronous and safe to share between threads; an asynchronous caller uses a thread.

    Besides what is named below, any method may raise Unavailable (try again later), StorageFull, and
    BlobError for a key outside the alphabet.
    """

    def writer(self, key: str) -> BlobWriter:
        """Start a blob. Of several writers of one key the last to commit wins."""
        ...

    def put_file(self, key: str, path: Path) -> BlobInfo:
        """Store a local file."""
        ...

    def read(
        self, key: str, *, size_bytes: int, sha256: str, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[bytes]:
        """The blob in chunks of at most `chunk_bytes`.

        BlobMissing, and BlobCorrupt for a wrong size, are raised by the call itself. The last chunk
        is held back until the SHA-256 is right: BlobCorrupt takes its place otherwise, so a reader who
        counts bytes never takes a damaged blob for a whole one.
        """
        ...

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str) -> None:
        """Fetch the blob; `path` appears (atomically) only when its bytes are the right ones.

        Raises BlobMissing and BlobCorrupt.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the blob; no error when it is not there."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, in any order."""
        ...


def open_store(blob_url: str) -> BlobStore:
    """`file:///absolute/directory` or `s3://bucket/prefix?endpoint=http://…&region=…`.

    S3 credentials come from the AWS_* variables. Raises BadSetting.
    """
    url = urlsplit(blob_url)
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        from .directory import DirectoryBlobStore

        return DirectoryBlobStore(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc:
        # boto3 takes a third of a second to import: only those who use it wait for it.
        from .s3 import S3BlobStore

        options = dict(parse_qsl(url.query))
        unknown = options.keys() - {"endpoint", "region"}
        if not unknown:
            return S3BlobStore(
                bucket=url.netloc,
                prefix=unquote(url.path).strip("/"),
                endpoint=options.get("endpoint"),
                region=options.get("region"),
            )
    raise BadSetting(
        f"LUTHIER_BLOB_URL is {blob_url!r}; it must read file:///absolute/directory "
        "or s3://bucket/prefix?endpoint=URL&region=NAME"
    )


def check_key(key: str) -> str:
    """The key itself, or BlobError for one that no store would keep faithfully."""
    if len(key) > _MAX_KEY_BYTES or not _KEY.fullmatch(key):
        raise BlobError(f"{key!r} is not a blob key")
    return key


def verified(key: str, chunks: Iterable[bytes], *, size_bytes: int, sha256: str) -> Iterator[bytes]:
    """Pass `chunks` on, the last one only if all of them are the `size_bytes` with that `sha256`."""
    digest = hashlib.sha256()
    num_bytes = 0
    held_back = b""
    for chunk in chunks:
        digest.update(chunk)
        num_bytes += len(chunk)
        if num_bytes > size_bytes:
            break
        if held_back:
            yield held_back
        held_back = chunk
    if num_bytes != size_bytes or digest.hexdigest() != sha256:
        raise BlobCorrupt(f"blob {key} is damaged: its bytes are not the ones that were stored")
    if held_back:
        yield held_back


def put_file(store: BlobStore, key: str, path: Path) -> BlobInfo:
    """`BlobStore.put_file` over `writer`."""
    with path.open("rb") as file, store.writer(key) as writer:
        while chunk := file.read(CHUNK_BYTES):
            writer.write(chunk)
        return writer.commit()


def get_file(store: BlobStore, key: str, path: Path, *, size_bytes: int, sha256: str) -> None:
    """`BlobStore.get_file` over `read`."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            for chunk in store.read(key, size_bytes=size_bytes, sha256=sha256):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
