"""Uploads: files that come in parts.

    pending -> completed | cancelled | expired

An upload takes parts for an hour. Whatever ends it, ends it here, once; its parts' rows go with it, and
their blobs are for the caller to delete.
"""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import ColumnElement, ForeignKey, Index, Select, and_, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, UploadNotFound
from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64, Timestamp

from . import files, upload_parts
from .files import FileRow
from .upload_parts import UploadPartRow

MAX_BYTES = 8 * 1024**3
MAX_PARTS = 10_000
"""Counting those that are sent and never used."""
MAX_PENDING = 500
"""In one project at a time."""
LIFE_S = 3600
GRACE_S = 3600
"""An upload that was asked to complete in time may still be put together when its time is over."""


class UploadRow(Base):
    __tablename__ = "uploads"
    __table_args__ = (
        Index(None, "project_id", "status"),
        Index(None, "status", "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    size_bytes: Mapped[Int64]
    """As announced; the parts must add up to it."""
    expires_after_s: Mapped[int | None]
    """Of the file that it becomes."""
    status: Mapped[str] = mapped_column(default="pending")
    file_id: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp]


def create(
    session: Session,
    *,
    project_id: str,
    filename: str,
    purpose: str,
    size_bytes: int,
    expires_after_s: int | None = None,
) -> UploadRow:
    """Raises InvalidRequest when the project has too many that are pending."""
    num_pending = session.scalar(
        select(func.count()).where(UploadRow.project_id == project_id, _takes_parts())
    )
    if (num_pending or 0) >= MAX_PENDING:
        raise InvalidRequest(
            f"This project has {num_pending} pending uploads, and may have {MAX_PENDING}: complete "
            "or cancel some of them first.",
            code="too_many_uploads",
        )
    row = UploadRow(
        id=f"upload_{secrets.token_hex(16)}",
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        size_bytes=size_bytes,
        expires_after_s=expires_after_s,
        # Both times are of the transaction's beginning, so they differ by the hour exactly.
        created_at=func.now(),
        expires_at=func.now() + timedelta(seconds=LIFE_S),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def pending(
    session: Session, project_id: str, upload_id: str, *, is_locked: bool = False
) -> UploadRow:
    """The upload, if it takes parts; locked, nobody ends it before this transaction is over.

    Raises UploadNotFound, and InvalidRequest for one that has ended.
    """
    query = _named(project_id, upload_id)
    found = session.execute(query.with_for_update() if is_locked else query).one_or_none()
    if found is None:
        raise UploadNotFound(upload_id)
    row, takes_parts = found
    if not takes_parts:
        raise _ended(row)
    return row


def add_part(
    session: Session, project_id: str, upload_id: str, part_id: str, blob: BlobInfo
) -> UploadPartRow:
    """Record a part that is stored. Raises UploadNotFound and InvalidRequest."""
    pending(session, project_id, upload_id, is_locked=True)
    num_parts, num_bytes = upload_parts.totals(session, upload_id)
    if num_parts >= MAX_PARTS:
        raise InvalidRequest(f"Upload {upload_id} already has {MAX_PARTS} parts.", param="data")
    if num_bytes + blob.size_bytes > MAX_BYTES:
        raise InvalidRequest(
            f"The parts of an upload may have {MAX_BYTES} bytes together; this one would make it "
            f"{num_bytes + blob.size_bytes}.",
            param="data",
        )
    return upload_parts.create(session, part_id, upload_id=upload_id, blob=blob)


def chosen_parts(
    session: Session, project_id: str, upload_id: str, part_ids: list[str]
) -> tuple[UploadRow, list[UploadPartRow]]:
    """The upload and these of its parts, in this order. Together they must be what was announced.

    Raises UploadNotFound and InvalidRequest.
    """
    # In this order: what ends an upload takes its parts away, so one that is pending now had them all.
    known = {part.id: part for part in upload_parts.all(session, upload_id)}
    upload = pending(session, project_id, upload_id)
    for index, part_id in enumerate(part_ids):
        if part_id not in known:
            raise InvalidRequest(
                f"Invalid 'part_ids[{index}]': upload {upload_id} has no part {part_id[:100]!r}.",
                param="part_ids",
            )
    if len(set(part_ids)) < len(part_ids):
        raise InvalidRequest("Invalid 'part_ids': a part is named twice.", param="part_ids")
    parts = [known[part_id] for part_id in part_ids]
    num_bytes = sum(part.size_bytes for part in parts)
    if num_bytes != upload.size_bytes:
        raise InvalidRequest(
            f"The parts have {num_bytes} bytes together, but upload {upload_id} was created for "
            f"{upload.size_bytes}.",
            param="part_ids",
        )
    return upload, parts


def complete(
    session: Session, project_id: str, upload_id: str, file_id: str, blob: BlobInfo
) -> tuple[UploadRow, FileRow, list[str]]:
    """Make the blob that was put together a file; gives the keys of the parts' blobs, too.

    Raises InvalidRequest when the upload was ended meanwhile.
    """
    row = _end(session, project_id, upload_id, "completed", file_id=file_id)
    file = files.create(
        session,
        file_id,
        project_id=project_id,
        filename=row.filename,
        purpose=row.purpose,
        blob=blob,
        expires_after_s=row.expires_after_s,
    )
    return row, file, upload_parts.remove(session, [upload_id])


def cancel(session: Session, project_id: str, upload_id: str) -> tuple[UploadRow, list[str]]:
    """The cancelled upload, and the keys of its parts' blobs."""
    pending(session, project_id, upload_id)
    row = _end(session, project_id, upload_id, "cancelled")
    return row, upload_parts.remove(session, [upload_id])


def remove_expired(session: Session) -> list[str]:
    """Mark what was never completed, and give the keys of the parts' blobs."""
    is_over = UploadRow.expires_at + timedelta(seconds=GRACE_S) <= func.clock_timestamp()
    ids = session.scalars(
        update(UploadRow)
        .where(UploadRow.status == "pending", is_over)
        .values(status="expired")
        .returning(UploadRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    return upload_parts.remove(session, list(ids)) if ids else []


def _end(
    session: Session, project_id: str, upload_id: str, status: str, *, file_id: str | None = None
) -> UploadRow:
    row = session.scalar(
        update(UploadRow)
        .where(
            UploadRow.id == upload_id,
            UploadRow.project_id == project_id,
            UploadRow.status == "pending",
        )
        .values(status=status, file_id=file_id)
        .returning(UploadRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        found = session.execute(_named(project_id, upload_id)).one_or_none()
        raise UploadNotFound(upload_id) if found is None else _ended(found[0])
    return row


def _named(project_id: str, upload_id: str) -> Select[UploadRow, bool]:
    return (
        select(UploadRow, _takes_parts())
        .where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
        .execution_options(populate_existing=True)
    )


def _takes_parts() -> ColumnElement[bool]:
    return and_(UploadRow.status == "pending", UploadRow.expires_at > func.clock_timestamp())


def _ended(row: UploadRow) -> InvalidRequest:
    # The sweep marks it some time later.
    status = "expired" if row.status == "pending" else row.status
    return InvalidRequest(
        f"Upload {row.id} is {status}: only a pending upload can be added to, completed or cancelled.",
        param="upload_id",
        code=f"upload_{status}",
    )
