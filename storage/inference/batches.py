"""Batches: many requests in a file, answered within a day. The row is the truth, as with jobs.

A process of the errands owns a batch by a lease (`storage.leases`). What it has done so far is in chunks
(`batch_chunks`), so that another can go on from there.

    validating -> in_progress -> finalizing -> completed | expired
    validating | in_progress -> cancelling -> cancelled          any -> failed
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, Select, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import BatchNotFound, InvalidRequest
from storage import leases, pages
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.leases import Claim, Leased
from storage.webhooks import webhooks

WINDOW_S = 24 * 3600
_IS_ACTIVE = text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")
CANCELLABLE = ("validating", "in_progress")
Ending = Literal["completed", "failed", "expired", "cancelled"]
_WEBHOOK_EVENTS: dict[Ending, webhooks.EventType] = {
    "completed": "batch.completed",
    "failed": "batch.failed",
    "expired": "batch.expired",
    "cancelled": "batch.cancelled",
}


class BatchRow(Leased, Base):
    __tablename__ = "batches"
    LEASE_S = 60
    RUNNABLE = ("validating", "in_progress", "finalizing", "cancelling")
    __table_args__ = (
        Index(None, "project_id", "created_at", "id"),
        # What `batch_turns` asks of a project: its next batch, its batches under way, its last turn.
        Index("ix_batches_active", "project_id", "not_before", postgresql_where=_IS_ACTIVE),
        Index("ix_batches_leased", "project_id", postgresql_where=text("lease_owner IS NOT NULL")),
        Index(None, "project_id", "claimed_at"),
        Index(None, "status", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    status: Mapped[str] = mapped_column(default="validating")

    # What was asked for.
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    metadata_: Mapped[Json | None] = mapped_column("metadata")
    output_expires_after_s: Mapped[int | None]

    # How it goes.
    created_at: Mapped[CreatedAt]
    expires_at: Mapped[Timestamp]
    in_progress_at: Mapped[Timestamp | None]
    finalizing_at: Mapped[Timestamp | None]
    completed_at: Mapped[Timestamp | None]
    failed_at: Mapped[Timestamp | None]
    expired_at: Mapped[Timestamp | None]
    cancelling_at: Mapped[Timestamp | None]
    cancelled_at: Mapped[Timestamp | None]
    errors: Mapped[list[Json] | None]
    """What is wrong with the input: `{code, message, param, line}`."""
    model: Mapped[str | None]
    """That all lines name; none if they name several."""
    num_lines: Mapped[int] = mapped_column(default=0)
    num_completed: Mapped[int] = mapped_column(default=0)
    num_failed: Mapped[int] = mapped_column(default=0)
    input_tokens: Mapped[Int64] = mapped_column(default=0)
    cached_tokens: Mapped[Int64] = mapped_column(default=0)
    output_tokens: Mapped[Int64] = mapped_column(default=0)
    reasoning_tokens: Mapped[Int64] = mapped_column(default=0)
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]

    @property
    def num_unanswered(self) -> int:
        return self.num_lines - self.num_completed - self.num_failed


def create(
    session: Session,
    batch_id: str,
    *,
    project_id: str,
    endpoint: str,
    input_file_id: str,
    metadata: dict[str, str] | None,
    output_expires_after_s: int | None,
) -> BatchRow:
    """Run the errand after the commit."""
    now = session.scalars(select(func.clock_timestamp())).one()
    row = BatchRow(
        id=batch_id,
        project_id=project_id,
        endpoint=endpoint,
        input_file_id=input_file_id,
        metadata_=metadata,
        output_expires_after_s=output_expires_after_s,
        created_at=now,
        expires_at=now + timedelta(seconds=WINDOW_S),
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, project_id: str, batch_id: str) -> BatchRow:
    row = session.scalar(_of_project(project_id).where(BatchRow.id == batch_id))
    if row is None:
        raise BatchNotFound(batch_id)
    return row


def page(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> pages.RowPage[BatchRow]:
    """Newest first."""
    query = _of_project(project_id)
    return pages.read(
        session,
        query,
        BatchRow.created_at,
        BatchRow.id,
        after=session.scalar(query.where(BatchRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def cancel(session: Session, project_id: str, batch_id: str) -> BatchRow:
    """Ask for the end. Who works on the batch hears of it within seconds; run the errand otherwise."""
    row = leases.changed(
        session,
        BatchRow,
        BatchRow.id == batch_id,
        BatchRow.project_id == project_id,
        BatchRow.status.in_(CANCELLABLE),
        status="cancelling",
        cancelling_at=func.clock_timestamp(),
        # It is soon over, so it is the next of its project.
        not_before=func.to_timestamp(0),
    )
    if row is None:
        row = get(session, project_id, batch_id)
        if row.status not in ("cancelling", "cancelled"):
            raise InvalidRequest(f"Cannot cancel a batch with status '{row.status}'.")
    return row


def active(session: Session, batch_ids: Sequence[str]) -> set[str]:
    """Those of the ids whose batches have not ended."""
    query = select(BatchRow.id).where(
        BatchRow.id.in_(batch_ids), BatchRow.status.in_(BatchRow.RUNNABLE)
    )
    return set(session.scalars(query))


def begin(session: Session, held: Claim[BatchRow], *, model: str | None, num_lines: int) -> None:
    """The input is fine. Without effect on a batch that is no longer `validating`. Raises LostLease."""
    _move_on(session, held, "validating", "in_progress", model=model, num_lines=num_lines)


def finalize(session: Session, held: Claim[BatchRow]) -> None:
    """No more lines are asked. Without effect on a batch that is no longer `in_progress`.

    Raises LostLease.
    """
    _move_on(session, held, "in_progress", "finalizing")


def _move_on(
    session: Session, held: Claim[BatchRow], status: str, to_status: str, **values: Any
) -> None:
    # It takes the row's lock: what it says of the row holds until the transaction ends.
    if leases.renew(session, held).row.status == status:
        now = func.clock_timestamp()
        leases.write(session, held, status=to_status, **{f"{to_status}_at": now}, **values)


def end(session: Session, held: Claim[BatchRow], status: Ending, **values: Any) -> BatchRow:
    """The last write, which gives the lease up. Raises LostLease.

    It holds only if the batch stands as it stood in `held`.
    """
    row = leases.write(
        session,
        held,
        BatchRow.status == held.row.status,
        status=status,
        **{f"{status}_at": func.clock_timestamp()},
        **leases.nobodys(BatchRow),
        **values,
    )
    webhooks.record(session, row.project_id, _WEBHOOK_EVENTS[status], row.id)
    return row


def _of_project(project_id: str) -> Select[BatchRow]:
    return select(BatchRow).where(BatchRow.project_id == project_id)
