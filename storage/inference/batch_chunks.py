"""The answers of a batch so far, in chunks.

Each names the lines that it answers and the blob with the answers, and appears in one transaction with
the batch's counts. So a line is in the output once, however often it had to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ForeignKey, delete, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage import leases
from storage.blobs.blobs import BlobInfo
from storage.database import Base, Int64
from storage.leases import Claim

from .batches import BatchRow


class BatchChunkRow(Base):
    """Answered lines, in the order in which they were answered."""

    __tablename__ = "batch_chunks"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1."""
    lines: Mapped[list[int]] = mapped_column(JSONB)
    """Their 1-based numbers in the input file."""
    key: Mapped[str]
    size_bytes: Mapped[Int64]
    sha256: Mapped[str]
    output_bytes: Mapped[Int64]
    """So many bytes of the blob belong to the output file; the rest, to the error file."""


@dataclass(frozen=True)
class Counts:
    """What a chunk adds to the batch's figures."""

    num_completed: int = 0
    num_failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


def add(
    session: Session,
    held: Claim[BatchRow],
    *,
    number: int,
    lines: list[int],
    blob: BlobInfo,
    output_bytes: int,
    counts: Counts,
) -> None:
    """Make the answers of these lines a part of the batch; raises LostLease."""
    values = {name: getattr(BatchRow, name) + added for name, added in vars(counts).items()}
    # Getting this far is progress, so the count of crashes starts anew.
    leases.renew(session, held, crashes=0, **values)
    row = BatchChunkRow(
        batch_id=held.row.id,
        number=number,
        lines=lines,
        key=blob.key,
        size_bytes=blob.size_bytes,
        sha256=blob.sha256,
        output_bytes=output_bytes,
    )
    session.add(row)
    session.flush()


def of_batch(session: Session, batch_id: str) -> list[BatchChunkRow]:
    """The caller holds the batch."""
    query = select(BatchChunkRow).where(BatchChunkRow.batch_id == batch_id)
    return list(session.scalars(query.order_by(BatchChunkRow.number)))


def count(session: Session, batch_id: str) -> int:
    query = select(func.count()).where(BatchChunkRow.batch_id == batch_id)
    return session.scalars(query).one()


def answered(session: Session, batch_id: str) -> set[int]:
    """The numbers of the lines that are in a chunk."""
    query = select(BatchChunkRow.lines).where(BatchChunkRow.batch_id == batch_id)
    return {number for numbers in session.scalars(query) for number in numbers}


def remove(session: Session, batch_id: str) -> None:
    """The batch has ended; the blobs may go once that is committed."""
    session.execute(delete(BatchChunkRow).where(BatchChunkRow.batch_id == batch_id))
