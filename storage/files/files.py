"""Files. A row exists only once its blob is completely stored; the client's file name is only text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, ForeignKey, Index, delete, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import FileNotFound
from storage import pages
from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64, Timestamp


class FileRow(Base):
    __tablename__ = "files"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]
    status: Mapped[str] = mapped_column(default="processed")
    status_details: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp | None]

    @property
    def blob_key(self) -> str:
        return blob_key(self.project_id, self.id)


def blob_key(project_id: str, file_id: str) -> str:
    return f"files/{project_id}/{file_id}"


def create(
    session: Session,
    file_id: str,
    *,
    project_id: str,
    filename: str,
    purpose: str,
    blob: BlobInfo,
    expires_after_s: int | None = None,
) -> FileRow:
    """Make a stored blob visible as a file."""
    row = FileRow(
        id=file_id,
        project_id=project_id,
        filename=filename,
        purpose=purpose,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
    )
    session.add(row)
    session.flush()
    if expires_after_s is not None:
        row.expires_at = row.created_at + timedelta(seconds=expires_after_s)
        session.flush()
    return row


def find(session: Session, project_id: str, file_id: str) -> FileRow | None:
    return session.scalar(
        select(FileRow).where(FileRow.id == file_id, FileRow.project_id == project_id, _is_live())
    )


def get(session: Session, project_id: str, file_id: str) -> FileRow:
    row = find(session, project_id, file_id)
    if row is None:
        raise FileNotFound(file_id)
    return row


def find_all(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, FileRow]:
    """Those of the ids that the project has, with their rows."""
    query = select(FileRow).where(
        FileRow.id.in_(file_ids), FileRow.project_id == project_id, _is_live()
    )
    return {row.id: row for row in session.scalars(query)}


def page(
    session: Session,
    project_id: str,
    *,
    purpose: str | None,
    after: str | None,
    limit: int,
    descending: bool,
) -> pages.RowPage[FileRow]:
    query = select(FileRow).where(FileRow.project_id == project_id, _is_live())
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    return pages.read(
        session,
        query,
        FileRow.created_at,
        FileRow.id,
        after=find(session, project_id, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
        descending=descending,
    )


def mark_bad(session: Session, file_id: str, details: str) -> None:
    """Nothing can be trained on it, for the reason given."""
    session.execute(
        update(FileRow)
        .where(FileRow.id == file_id)
        .values(status="error", status_details=details)
        .execution_options(synchronize_session=False)
    )


def remove(session: Session, project_id: str, file_id: str) -> FileRow:
    """Take the row away; the caller deletes the blob once that is committed."""
    row = get(session, project_id, file_id)
    session.execute(delete(FileRow).where(FileRow.id == row.id))
    return row


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to a file."""
    ids = [key.rpartition("/")[2] for key in keys]
    return {row.blob_key for row in session.scalars(select(FileRow).where(FileRow.id.in_(ids)))}


def remove_expired(session: Session) -> list[str]:
    """Take expired rows away and say which blobs they had."""
    gone = session.scalars(
        delete(FileRow).where(FileRow.expires_at <= func.now()).returning(FileRow)
    ).all()
    return [row.blob_key for row in gone]


def _is_live() -> ColumnElement[bool]:
    return or_(FileRow.expires_at.is_(None), FileRow.expires_at > func.now())
