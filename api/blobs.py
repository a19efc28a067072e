"""Blobs as replies, and the end of blobs whose rows are gone."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType
from urllib.parse import quote

import anyio
import structlog
from anyio.to_thread import run_sync
from fastapi.responses import StreamingResponse

from foundation.errors import LuthierError
from storage.blobs.blobs import BlobStore

log = structlog.get_logger()

CHUNK_BYTES = 3 * 256 * 1024
"""A multiple of 3, so that the chunks' base64 put together is the blob's."""


async def blob_response(
    store: BlobStore,
    key: str,
    *,
    size_bytes: int,
    sha256: str,
    filename: str,
    media_type: str = "application/octet-stream",
    as_base64: bool = False,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> StreamingResponse:
    """Stream a blob. Raises BlobMissing and BlobCorrupt while an error can still be the reply.

    The store checks the SHA-256 and holds the last bytes back until then, so damage that shows only at
    the end of a long blob breaks the connection off.
    """
    chunks = await run_sync(
        lambda: store.read(key, size_bytes=size_bytes, sha256=sha256, chunk_bytes=CHUNK_BYTES)
    )
    first = await run_sync(next, chunks, b"")
    num_bytes = (size_bytes + 2) // 3 * 4 if as_base64 else size_bytes
    return StreamingResponse(
        _stream(first, chunks, as_base64=as_base64),
        media_type=media_type,
        headers={
            "content-length": str(num_bytes),
            "content-disposition": content_disposition(filename),
            **headers,
        },
    )


async def _stream(
    first: bytes, chunks: Iterator[bytes], *, as_base64: bool
) -> AsyncIterator[bytes]:
    chunk = first
    try:
        while chunk:
            yield base64.b64encode(chunk) if as_base64 else chunk
            chunk = await run_sync(next, chunks, b"")
    finally:
        # An interrupted download must not keep the store's connection.
        with anyio.CancelScope(shield=True):
            await run_sync(getattr(chunks, "close", lambda: None))


async def delete_blobs(store: BlobStore, keys: list[str]) -> None:
    """Delete the blobs of rows that are gone. One that cannot be deleted is an orphan, and no reason to fail."""
    for key in keys:
        try:
            await run_sync(store.delete, key)
        except LuthierError as error:
            log.warning("blob.orphaned", key=key, error=str(error))


def content_disposition(filename: str) -> str:
    """RFC 6266: the name in ASCII for old clients, and as it is for all others."""
    ascii_name = "".join(c if c.isascii() and c not in '"\\%' else "_" for c in filename)
    header = f'attachment; filename="{ascii_name}"'
    if ascii_name != filename:
        header += f"; filename*=UTF-8''{quote(filename, safe='')}"
    return header
