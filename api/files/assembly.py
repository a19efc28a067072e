"""From the parts of an upload to one file: read, checked and written piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import anyio
from anyio.to_thread import run_sync

from foundation.documents import RowReader
from foundation.errors import InvalidRequest
from storage.blobs.blobs import BlobInfo, BlobStore
from storage.files.upload_parts import UploadPartRow

from .jsonl import LineCheck

MAX_AT_ONCE = 2
"""Others wait: each reads and writes up to 8 GB."""

_slots = anyio.CapacityLimiter(MAX_AT_ONCE)


async def assemble(
    store: BlobStore,
    key: str,
    parts: Sequence[UploadPartRow],
    *,
    md5: str | None,
    reader: RowReader | None,
) -> BlobInfo:
    """The blob of all parts in order; `reader` reads those of a training file. Nothing of it stays if this raises InvalidRequest or a BlobError."""
    check = LineCheck(reader) if reader is not None else None
    return await run_sync(_assemble, store, key, parts, md5, check, limiter=_slots)


def _assemble(
    store: BlobStore,
    key: str,
    parts: Sequence[UploadPartRow],
    md5: str | None,
    check: LineCheck | None,
) -> BlobInfo:
    digest = hashlib.md5(usedforsecurity=False)
    with store.writer(key) as writer:
        for part in parts:
            content = store.read(part.blob_key, size_bytes=part.size_bytes, sha256=part.sha256)
            for chunk in content:
                writer.write(chunk)
                digest.update(chunk)
                if check is not None:
                    check.feed(chunk)
                    _raise_problem(check)
        if check is not None:
            check.finish()
            _raise_problem(check)
        if md5 is not None and md5.strip().lower() != digest.hexdigest():
            raise InvalidRequest(
                f"The parts' content has the MD5 checksum {digest.hexdigest()}, not {md5!r}.",
                param="md5",
                code="md5_mismatch",
            )
        return writer.commit()


def _raise_problem(check: LineCheck) -> None:
    if check.problem is not None:
        raise check.problem
