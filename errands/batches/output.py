"""The answers of a batch: collected, kept in chunks as they come, and put together at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import structlog
from sqlalchemy.orm import Session

from errands.errands import Errands
from foundation.crash_points import crash_point
from foundation.errors import LuthierError
from storage.blobs.blobs import BlobInfo
from storage.files import files
from storage.ids import new_id
from storage.inference import batch_chunks, batches
from storage.inference.batch_chunks import BatchChunkRow, Counts
from storage.inference.batches import BatchRow, Ending

from .gateway import ApiReply
from .input import Line
from .lease import BatchLease

PURPOSE = "batch_output"
EXPIRES_AFTER_S = 30 * 24 * 3600
"""Unless the batch says otherwise."""
FIRST_CHUNK_S, CHUNK_GROWTH_S, MAX_CHUNK_S = 1.0, 0.1, 30.0
"""A young batch tells its counts at once; one of a day must not fall to pieces."""
MAX_CHUNK_BYTES = 4 << 20

NOT_ASKED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": (
        "batch_cancelled",
        "The batch was cancelled before this request was executed.",
    ),
}
TIMED_OUT = ("request_timeout", "The model did not answer in time.")

Json = dict[str, Any]

_PREFIX = "batches/"

log = structlog.get_logger()


@dataclass
class Answers:
    """Answered lines that are in no chunk yet."""

    number: int
    """Of the chunk that they will be."""
    lines: list[int] = field(default_factory=list)
    output: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    counts: Counts = field(default_factory=Counts)
    began_at: float = field(default_factory=time.monotonic)

    def add(self, line: Line, reply: ApiReply | None) -> None:
        """None for a reply that did not come in time."""
        self.lines.append(line.number)
        if reply is not None and reply.status == 200:
            self.output += _record(line, reply)
            self.counts = _sum(self.counts, reply.body)
        else:
            self.errors += _record(line, reply, None if reply else TIMED_OUT)
            self.counts = replace(self.counts, num_failed=self.counts.num_failed + 1)

    @property
    def is_due(self) -> bool:
        """They should be kept now."""
        if not self.lines:
            return False
        patience_s = min(MAX_CHUNK_S, FIRST_CHUNK_S + CHUNK_GROWTH_S * self.number)
        is_large = len(self.output) + len(self.errors) >= MAX_CHUNK_BYTES
        return is_large or time.monotonic() - self.began_at > patience_s

    def keep(self, errands: Errands, lease: BatchLease) -> Answers:
        """Make them a chunk of the batch; gives the next, empty one. Raises LostLease."""
        if not self.lines:
            return self
        batch_id, token = lease.batch.id, lease.claim.lease_token
        # The token: a process that has lost the batch must not write over its successor's chunk.
        with errands.blobs.writer(f"{_prefix(batch_id)}{token}-{self.number}") as writer:
            writer.write(bytes(self.output + self.errors))
            blob = writer.commit()
        crash_point("before_chunk_commit")

        def write(session: Session) -> None:
            batch_chunks.add(
                session,
                lease.claim,
                number=self.number,
                lines=self.lines,
                blob=blob,
                output_bytes=len(self.output),
                counts=self.counts,
            )

        lease.write(write)
        crash_point("after_chunk_commit")
        return Answers(self.number + 1)


def _record(line: Line, reply: ApiReply | None, error: tuple[str, str] | None = None) -> bytes:
    """A line of the output or of the error file."""
    response = None
    if reply is not None:
        response = {
            "status_code": reply.status,
            "request_id": reply.request_id,
            "body": reply.body,
        }
    record = {
        "id": new_id("batch_req_"),
        "custom_id": line.custom_id,
        "response": response,
        "error": {"code": error[0], "message": error[1]} if error else None,
    }
    return orjson.dumps(record) + b"\n"


def _sum(counts: Counts, body: Any) -> Counts:
    """What a reply used is told in chats' words, or in responses'."""
    usage = _object(_object(body).get("usage"))
    read, written = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
    details = _object(usage.get(f"{read}_tokens_details"))
    added = {
        "num_completed": 1,
        "input_tokens": usage.get(f"{read}_tokens"),
        "cached_tokens": details.get("cached_tokens"),
        "output_tokens": usage.get(f"{written}_tokens"),
        "reasoning_tokens": _object(usage.get(f"{written}_tokens_details")).get("reasoning_tokens"),
    }
    return replace(
        counts,
        **{
            name: getattr(counts, name) + number
            for name, number in added.items()
            if isinstance(number, int)
        },
    )


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def finish(
    errands: Errands,
    lease: BatchLease,
    status: Ending,
    not_asked: Iterable[Line],
    problems: list[Json] | None = None,
) -> None:
    """Put the files together and end the batch as `status`. Raises LostLease and Stopped."""
    batch = lease.batch
    with errands.sessions() as session:
        chunks = batch_chunks.of_batch(session, batch.id)
    ids = {"output": new_id("file-"), "error": new_id("file-")}
    keys = {kind: files.blob_key(batch.project_id, file_id) for kind, file_id in ids.items()}
    num_not_asked, blobs = 0, dict[str, BlobInfo]()
    with ExitStack() as stack:
        writers = {
            kind: stack.enter_context(errands.blobs.writer(key)) for kind, key in keys.items()
        }
        written = set()
        for kind, data in _pieces(errands, chunks):
            lease.check()
            writers[kind].write(data)
            written.add(kind)
        for line in not_asked:
            lease.check()
            writers["error"].write(_record(line, None, NOT_ASKED[status]))
            written.add("error")
            num_not_asked += 1
        blobs = {kind: writers[kind].commit() for kind in sorted(written)}
    crash_point("before_end")

    def write(session: Session) -> None:
        for kind, blob in blobs.items():
            files.create(
                session,
                ids[kind],
                project_id=batch.project_id,
                filename=f"{batch.id}_{kind}.jsonl",
                purpose=PURPOSE,
                blob=blob,
                expires_after_s=batch.output_expires_after_s or EXPIRES_AFTER_S,
            )
        batches.end(
            session,
            lease.claim,
            status,
            num_failed=BatchRow.num_failed + num_not_asked,
            errors=problems,
            **{f"{kind}_file_id": ids[kind] for kind in blobs},
        )
        batch_chunks.remove(session, batch.id)

    lease.end(write)
    crash_point("after_end")


def _pieces(errands: Errands, chunks: list[BatchChunkRow]) -> Iterator[tuple[str, bytes]]:
    """What the chunks hold for the output file and for the error file."""
    for chunk in chunks:
        position = 0
        for data in errands.blobs.read(chunk.key, size_bytes=chunk.size_bytes, sha256=chunk.sha256):
            num_output = max(0, min(len(data), chunk.output_bytes - position))
            position += len(data)
            if num_output:
                yield "output", data[:num_output]
            if num_output < len(data):
                yield "error", data[num_output:]


def clean_up(errands: Errands) -> None:
    """Take away the chunks of batches that have ended. What cannot be deleted now stays for the next time."""
    by_batch: dict[str, list[str]] = {}
    for key in errands.blobs.list(_PREFIX):
        by_batch.setdefault(key.split("/")[1], []).append(key)
    with errands.sessions() as session:
        active = batches.active(session, list(by_batch))
    for batch_id, keys in by_batch.items():
        if batch_id not in active:
            for key in keys:
                _delete(errands, key)


def _delete(errands: Errands, key: str) -> None:
    try:
        errands.blobs.delete(key)
    except LuthierError as error:
        log.warning("batch.delete_failed", key=key, error=str(error))


def _prefix(batch_id: str) -> str:
    return f"{_PREFIX}{batch_id}/"
