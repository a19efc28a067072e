"""The parts of uploads, each a blob of its own until they become one file."""

from __future__ import annotations

from sqlalchemy import ForeignKey, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64

MAX_BYTES = 64 * 1024**2


class UploadPartRow(Base):
    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]
    created_at: Mapped[CreatedAt]

    @property
    def blob_key(self) -> str:
        return blob_key(self.upload_id, self.id)


def blob_key(upload_id: str, part_id: str) -> str:
    return f"uploads/{upload_id}/{part_id}"


def create(session: Session, part_id: str, *, upload_id: str, blob: BlobInfo) -> UploadPartRow:
    row = UploadPartRow(
        id=part_id, upload_id=upload_id, size_bytes=blob.size_bytes, sha256=blob.sha256
    )
    session.add(row)
    session.flush()
    return row


def totals(session: Session, upload_id: str) -> tuple[int, int]:
    """How many parts an upload has, and how many bytes they have together."""
    num_bytes = func.coalesce(func.sum(UploadPartRow.size_bytes), 0)
    count, total = session.execute(
        select(func.count(), num_bytes).where(UploadPartRow.upload_id == upload_id)
    ).one()
    return int(count), int(total)


def all(session: Session, upload_id: str) -> list[UploadPartRow]:
    return list(session.scalars(select(UploadPartRow).where(UploadPartRow.upload_id == upload_id)))


def remove(session: Session, upload_ids: list[str]) -> list[str]:
    """Take the parts of these uploads away; gives the keys of their blobs."""
    gone = session.execute(
        delete(UploadPartRow)
        .where(UploadPartRow.upload_id.in_(upload_ids))
        .returning(UploadPartRow.upload_id, UploadPartRow.id)
        .execution_options(synchronize_session=False)
    )
    return [blob_key(upload_id, part_id) for upload_id, part_id in gone]


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to a part."""
    ids = [key.rpartition("/")[2] for key in keys]
    rows = session.scalars(select(UploadPartRow).where(UploadPartRow.id.in_(ids)))
    return {row.blob_key for row in rows}
