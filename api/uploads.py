"""The way of an uploaded file: from the socket to the blob, in constant memory.

Nothing of an upload that fails, is refused or breaks off stays behind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.to_thread import run_sync
from fastapi import Request

from storage.blobs import BlobInfo, BlobStore, BlobWriter
from storage.errors import InvalidRequest, TooLarge

from .jsonl import LineCheck
from .multipart import FormReader

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_FORM_BYTES = MAX_FILE_BYTES + 64 * 1024
"""The whole body: the file and what a form needs around it."""
WRITE_BYTES = 1024 * 1024
STALL_TIMEOUT_S = 60.0
"""How long a client may send nothing."""

PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2592000


@dataclass(frozen=True)
class Upload:
    """A stored file, and what the form said about it."""

    blob: BlobInfo
    filename: str
    purpose: str
    expires_after_s: int | None


async def receive(request: Request, store: BlobStore, key: str) -> Upload:
    """Read the request's form and store its file under `key`. Raises InvalidRequest and TooLarge."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_FORM_BYTES:
        raise _too_large()
    form = FormReader(request.headers.get("content-type", ""))
    check = LineCheck()
    async with _writer(store, key) as writer:
        async with aclosing(_chunks(request)) as chunks:
            async for chunk in chunks:
                form.feed(chunk)
                _refuse_early(form, check)
                if form.num_pending_bytes >= WRITE_BYTES:
                    await run_sync(_store, writer, check, form.take())
        form.finish()
        await run_sync(_store, writer, check, form.take())
        purpose, expires_after_s = _purpose(form.fields), _expires_after_s(form.fields)
        if form.filename is None:
            raise _missing("file")
        if purpose == "fine-tune":
            await run_sync(check.finish)
            if check.problem is not None:
                raise check.problem
        blob = await run_sync(writer.commit)
    return Upload(blob, form.filename, purpose, expires_after_s)


def _store(writer: BlobWriter, check: LineCheck, data: bytes) -> None:
    writer.write(data)
    check.feed(data)


def _refuse_early(form: FormReader, check: LineCheck) -> None:
    """What is known to be wrong need not be sent to its end. A form may name the purpose last."""
    if form.num_file_bytes > MAX_FILE_BYTES:
        raise _too_large()
    if "purpose" not in form.fields:
        return
    if _purpose(form.fields) != "fine-tune":
        check.is_wanted = False
    elif check.problem is not None:
        raise check.problem


async def _chunks(request: Request) -> AsyncGenerator[bytes]:
    """The body, no longer than it may be and no slower."""
    num_bytes = 0
    async with aclosing(request.stream()) as stream:
        while True:
            try:
                with anyio.fail_after(STALL_TIMEOUT_S):
                    chunk = await anext(stream, b"")
            except TimeoutError:
                raise InvalidRequest(
                    f"The upload stalled for {STALL_TIMEOUT_S:.0f} seconds.", status=408
                ) from None
            if not chunk:
                return
            num_bytes += len(chunk)
            if num_bytes > MAX_FORM_BYTES:
                raise _too_large()
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


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose")
    if purpose is None:
        raise _missing("purpose")
    if purpose not in PURPOSES:
        raise InvalidRequest(
            f"{purpose!r} is not one of {list(PURPOSES)} - 'purpose'", param="purpose"
        )
    return purpose


def _expires_after_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            f"{anchor!r} is not one of ['created_at'] - 'expires_after.anchor'",
            param="expires_after.anchor",
        )
    is_number = seconds is not None and re.fullmatch(r"[0-9]{1,10}", seconds)
    if not is_number or not MIN_EXPIRY_S <= int(seconds or "") <= MAX_EXPIRY_S:
        raise InvalidRequest(
            f"Invalid 'expires_after.seconds': expected an integer between {MIN_EXPIRY_S} and "
            f"{MAX_EXPIRY_S}, but got {seconds!r} instead.",
            param="expires_after.seconds",
        )
    return int(seconds or "")


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def _too_large() -> TooLarge:
    return TooLarge(
        f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded: a file may have 512 MB.",
        param="file",
    )
