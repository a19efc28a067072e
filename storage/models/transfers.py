"""Transfers: a tuned model that leaves in some format (an export), or an adapter made elsewhere that comes (an import).

The row is the truth, as with jobs and batches: a process of the errands works on one under a lease (`storage.leases`). An attempt that
dies leaves nothing behind; the next one begins anew and makes the same bytes.

    queued -> running -> succeeded | failed          queued | running -> cancelled
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, Select, delete, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, TransferNotFound
from storage import leases, pages
from storage.blobs.blobs import BlobInfo
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.ids import new_id
from storage.leases import Claim, Leased

Kind = Literal["export", "import"]
KEPT_S = 7 * 24 * 3600
"""How long an export's files are kept: they can be made again."""
MAX_UNFINISHED = 16
"""Of a project."""
BLOB_PREFIX = "exports/"
# Any number will do, as long as every process uses the same.
_LOCK = 7_021_530_917
_IS_UNFINISHED = text("status IN ('queued', 'running')")


class TransferRow(Leased, Base):
    __tablename__ = "transfers"
    LEASE_S = 30
    RUNNABLE = ("queued", "running")
    __table_args__ = (
        Index(None, "project_id", "kind", "created_at", "id"),
        Index("ix_transfers_unfinished", "created_at", postgresql_where=_IS_UNFINISHED),
        Index(None, "project_id", "claimed_at"),
        Index(None, "expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(default="queued")

    # What was asked for.
    model: Mapped[str | None] = mapped_column(
        ForeignKey("models.name", ondelete="CASCADE"), index=True
    )
    """What is exported; what an import has made, once it has. An export goes with its model."""
    base_model: Mapped[str]
    format: Mapped[str | None]
    quantization: Mapped[str | None]
    file_id: Mapped[str | None]
    """The archive that is imported."""
    suffix: Mapped[str | None]
    """Of the name of the model that an import makes."""
    owned_by: Mapped[str]
    """The organization's slug."""

    # How it went.
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Timestamp | None]
    expires_at: Mapped[Timestamp | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    """The share that is done."""
    error: Mapped[Json | None]
    """`{code, message, param}`."""
    files: Mapped[list[Json] | None]
    """Of an export `{name, bytes, sha256}`."""
    size_bytes: Mapped[Int64 | None]
    sha256: Mapped[str | None]
    """Of an export's blob, a tar of its files, as its size."""

    @classmethod
    def when_claimed(cls) -> dict[str, Any]:
        return {"status": "running", "progress": 0.0}

    @property
    def blob_key(self) -> str:
        return blob_key(self.id)


def blob_key(transfer_id: str) -> str:
    return f"{BLOB_PREFIX}{transfer_id}.tar"


def create(session: Session, kind: Kind, *, project_id: str, **asked: Any) -> TransferRow:
    """Run the errand after the commit. Raises InvalidRequest for one more than a project may have."""
    unfinished = select(func.count()).where(
        TransferRow.project_id == project_id, TransferRow.status.in_(TransferRow.RUNNABLE)
    )
    if session.scalars(unfinished).one() >= MAX_UNFINISHED:
        raise InvalidRequest(
            f"The project has {MAX_UNFINISHED} exports and imports that have not ended; wait for one, or "
            "cancel one.",
            code="too_many_transfers",
        )
    row = TransferRow(id=new_id(f"{kind}-"), kind=kind, project_id=project_id, **asked)
    session.add(row)
    session.flush()
    return row


def get(session: Session, project_id: str, kind: Kind, transfer_id: str) -> TransferRow:
    row = session.scalar(_of_project(project_id, kind).where(TransferRow.id == transfer_id))
    if row is None:
        raise TransferNotFound(kind, transfer_id)
    return row


def page(
    session: Session, project_id: str, kind: Kind, *, after: str | None, limit: int
) -> pages.RowPage[TransferRow]:
    """Newest first."""
    query = _of_project(project_id, kind)
    return pages.read(
        session,
        query,
        TransferRow.created_at,
        TransferRow.id,
        after=session.scalar(query.where(TransferRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def cancel(session: Session, project_id: str, kind: Kind, transfer_id: str) -> TransferRow:
    """End it now. Who works on it loses the lease."""
    row = leases.changed(
        session,
        TransferRow,
        TransferRow.id == transfer_id,
        TransferRow.project_id == project_id,
        TransferRow.kind == kind,
        TransferRow.status.in_(TransferRow.RUNNABLE),
        status="cancelled",
        finished_at=func.clock_timestamp(),
        expires_at=_expiry(),
        **leases.nobodys(TransferRow),
    )
    if row is None:
        row = get(session, project_id, kind, transfer_id)
        if row.status != "cancelled":
            raise InvalidRequest(f"Cannot cancel an {kind} with status '{row.status}'.")
    return row


def remove(session: Session, project_id: str, kind: Kind, transfer_id: str) -> str:
    """Take the row away, whatever its state; gives its blob's key. A model that was imported stays."""
    gone = session.scalar(
        delete(TransferRow)
        .where(
            TransferRow.id == transfer_id,
            TransferRow.project_id == project_id,
            TransferRow.kind == kind,
        )
        .returning(TransferRow.id)
    )
    if gone is None:
        raise TransferNotFound(kind, transfer_id)
    return blob_key(gone)


def blob_keys_of_model(session: Session, project_id: str, model: str) -> list[str]:
    """Of the exports that go when the model goes."""
    query = select(TransferRow.id).where(
        TransferRow.project_id == project_id, TransferRow.model == model
    )
    return [blob_key(transfer_id) for transfer_id in session.scalars(query)]


def remove_expired(session: Session) -> list[str]:
    """Gives the keys of the blobs that belonged to them."""
    gone = session.scalars(
        delete(TransferRow)
        .where(TransferRow.expires_at < func.clock_timestamp())
        .returning(TransferRow.id)
        .execution_options(synchronize_session=False)
    )
    return [blob_key(transfer_id) for transfer_id in gone]


def known_keys(session: Session, keys: list[str]) -> set[str]:
    """Those of the blobs' keys that belong to a transfer."""
    ids = [key.removeprefix(BLOB_PREFIX).removesuffix(".tar") for key in keys]
    query = select(TransferRow.id).where(TransferRow.id.in_(ids))
    return {blob_key(transfer_id) for transfer_id in session.scalars(query)}


def claim(session: Session, owner: str, num_places: int) -> Claim[TransferRow] | None:
    """Take the one whose turn it is, if `owner` has a place for it."""
    return leases.claim_next(session, TransferRow, owner, num_places, lock=_LOCK)


def succeed(
    session: Session,
    held: Claim[TransferRow],
    *,
    files: list[Json] | None = None,
    blob: BlobInfo | None = None,
    model: str | None = None,
) -> TransferRow:
    """The last write, which gives the lease up. Raises LostLease."""
    values: dict[str, Any] = {"progress": 1.0}
    if blob is not None:
        values |= {"files": files, "size_bytes": blob.size_bytes, "sha256": blob.sha256}
    if model is not None:
        values |= {"model": model}
    return _end(session, held, "succeeded", **values)


def fail(session: Session, held: Claim[TransferRow], code: str, message: str) -> TransferRow:
    """The last write, which gives the lease up. Raises LostLease."""
    error = {"code": code, "message": message, "param": None}
    return _end(session, held, "failed", error=error)


def _end(session: Session, held: Claim[TransferRow], status: str, **values: Any) -> TransferRow:
    return leases.write(
        session,
        held,
        status=status,
        finished_at=func.clock_timestamp(),
        expires_at=_expiry(),
        **leases.nobodys(TransferRow),
        **values,
    )


def _expiry() -> Any:
    return func.clock_timestamp() + timedelta(seconds=KEPT_S)


def _of_project(project_id: str, kind: Kind) -> Select[TransferRow]:
    return select(TransferRow).where(TransferRow.project_id == project_id, TransferRow.kind == kind)
