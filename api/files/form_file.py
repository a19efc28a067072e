"""The way of a file in a form: from the socket to the blob, in constant memory.

Nothing of a file that fails, is refused or breaks off stays behind.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.to_thread import run_sync
from fastapi import Request

from foundation.errors import InvalidRequest, TooLarge
from storage.blobs.blobs import BlobInfo, BlobStore, BlobWriter

from .multipart import FormReader

FORM_BYTES = 64 * 1024
"""What a form may need around its file."""
WRITE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FormFile:
    """A stored file, and what the form said besides."""

    blob: BlobInfo
    filename: str
    fields: Mapping[str, str]


class Inspection(Protocol):
    """Looks at a file while it comes. Whatever it raises ends the reception."""

    def look(self, fields: Mapping[str, str], filename: str | None) -> None:
        """Called often, with what is known so far: what is known to be wrong need not be sent to its end.

        The file's name is known before its first bytes are read.
        """

    def read(self, data: bytes) -> None:
        """The file's next bytes. Runs on a thread, as `finish` does."""

    def finish(self, fields: Mapping[str, str]) -> None:
        """The form is complete."""


async def receive(
    request: Request,
    store: BlobStore,
    key: str,
    *,
    field: str,
    max_bytes: int,
    inspection: Inspection | None = None,
) -> FormFile:
    """Read the request's form and store the file of that field under `key`.

    Raises InvalidRequest and TooLarge, and what the inspection raises.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes + FORM_BYTES:
        raise _too_large(field, max_bytes)
    form = FormReader(request.headers.get("content-type", ""), field)

    def store_pending() -> None:
        data = form.take()
        writer.write(data)
        if inspection is not None:
            inspection.read(data)

    async with _writer(store, key) as writer:
        async with aclosing(_chunks(request, field, max_bytes)) as chunks:
            async for chunk in chunks:
                form.feed(chunk)
                if form.num_file_bytes > max_bytes:
                    raise _too_large(field, max_bytes)
                if inspection is not None:
                    inspection.look(form.fields, form.filename)
                if form.num_pending_bytes >= WRITE_BYTES:
                    await run_sync(store_pending)
        form.finish()
        await run_sync(store_pending)
        if form.filename is None:
            raise missing(field)
        if inspection is not None:
            await run_sync(inspection.finish, form.fields)
        blob = await run_sync(writer.commit)
    return FormFile(blob, form.filename, form.fields)


def missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


async def _chunks(request: Request, field: str, max_bytes: int) -> AsyncGenerator[bytes]:
    """The body, no longer than it may be. Who sends it too slowly loses the connection."""
    num_bytes = 0
    async with aclosing(request.stream()) as stream:
        async for chunk in stream:
            num_bytes += len(chunk)
            if num_bytes > max_bytes + FORM_BYTES:
                raise _too_large(field, max_bytes)
            yield chunk


@asynccontextmanager
async def _writer(store: BlobStore, key: str) -> AsyncIterator[BlobWriter]:
    writer = await run_sync(store.writer, key)
    await run_sync(writer.__enter__)
    try:
        yield writer
    finally:
        # Also when the request is cancelled: the half-written blob must go.
        with anyio.CancelScope(shield=True):
            await run_sync(writer.__exit__, *sys.exc_info())


def _too_large(field: str, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"Maximum content size limit ({max_bytes}) exceeded: '{field}' may have "
        f"{max_bytes // 1024**2} MB.",
        param=field,
    )
