"""Adapters: trained weights. An id is never reused and its blob never changes, so it is the key of every cache."""

from __future__ import annotations

from sqlalchemy import ForeignKey, delete, exists, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64


class AdapterRow(Base):
    __tablename__ = "adapters"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    base_model: Mapped[str]
    rank: Mapped[int]
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]
    created_at: Mapped[CreatedAt]

    @property
    def blob_key(self) -> str:
        return blob_key(self.id)


def blob_key(adapter_id: str) -> str:
    """One uncompressed tar of a folder in PEFT's format."""
    return f"adapters/{adapter_id}.tar"


def create(
    session: Session,
    adapter_id: str,
    *,
    project_id: str,
    base_model: str,
    rank: int,
    blob: BlobInfo,
) -> AdapterRow:
    row = AdapterRow(
        id=adapter_id,
        project_id=project_id,
        base_model=base_model,
        rank=rank,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, adapter_id: str) -> AdapterRow | None:
    """By an id out of a row, never out of a request: a permission lets a project use another's."""
    return session.get(AdapterRow, adapter_id)


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to an adapter."""
    ids = [key.removeprefix("adapters/").removesuffix(".tar") for key in keys]
    query = select(AdapterRow.id).where(AdapterRow.id.in_(ids))
    return {blob_key(adapter_id) for adapter_id in session.scalars(query)}


def remove_unused(session: Session, adapter_ids: list[str]) -> list[str]:
    """Take away those that no model, checkpoint or job refers to any more; gives their blobs' keys."""
    from storage.jobs.jobs import ACTIVE, JobRow

    from .models import ModelRow

    is_used = exists().where(ModelRow.adapter_id == AdapterRow.id) | exists().where(
        JobRow.init_adapter_id == AdapterRow.id, JobRow.status.in_(ACTIVE)
    )
    # Wait for whoever is about to refer to one (`models.find_to_train`), and look after that.
    session.execute(select(AdapterRow.id).where(AdapterRow.id.in_(adapter_ids)).with_for_update())
    gone = session.scalars(
        delete(AdapterRow)
        .where(AdapterRow.id.in_(adapter_ids), ~is_used)
        .returning(AdapterRow.id)
        .execution_options(synchronize_session=False)
    ).all()
    return [blob_key(adapter_id) for adapter_id in gone]
