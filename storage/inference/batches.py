"""Batches: many requests in a file, answered within a day. The row is the truth, as with jobs.

A process of the errands owns a batch by a lease with a fencing token. What it has done so far is in
chunks (`batch_chunks`), so that another can go on from there.

    validating -> in_progress -> finalizing -> completed | expired
    validating | in_progress -> cancelling -> cancelled          any -> failed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, Select, and_, case, func, or_, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import BatchNotFound, InvalidRequest
from storage import pages
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.webhooks import webhooks

WINDOW_S = 24 * 3600
LEASE_S = 60
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
_IS_ACTIVE = text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")
CANCELLABLE = ("validating", "in_progress")
Ending = Literal["completed", "failed", "expired", "cancelled"]
_WEBHOOK_EVENTS: dict[Ending, webhooks.EventType] = {
    "completed": "batch.completed",
    "failed": "batch.failed",
    "expired": "batch.expired",
    "cancelled": "batch.cancelled",
}


class LostLease(Exception):
    """The batch is not this process's any more. Nothing may be written for it."""


class BatchRow(Base):
    __tablename__ = "batches"
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

    # Who works on it.
    lease_owner: Mapped[str | None]
    lease_token: Mapped[Int64] = mapped_column(default=0)
    lease_expires_at: Mapped[Timestamp | None]
    claimed_at: Mapped[Timestamp | None]
    """For the last time: so long ago its project was served, if not since by another."""
    not_before: Mapped[CreatedAt]
    crashes: Mapped[int] = mapped_column(default=0)
    """In a row, without a new chunk."""

    @property
    def num_unanswered(self) -> int:
        return self.num_lines - self.num_completed - self.num_failed


@dataclass(frozen=True)
class Claim:
    """The right to work on a batch until the lease runs out, and how the batch stood at the last look."""

    batch: BatchRow
    lease_token: int
    is_expired: bool
    """Its window is over."""


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
    row = session.scalar(
        update(BatchRow)
        .where(
            BatchRow.id == batch_id,
            BatchRow.project_id == project_id,
            BatchRow.status.in_(CANCELLABLE),
        )
        .values(
            status="cancelling",
            cancelling_at=func.clock_timestamp(),
            # It is soon over, so it is the next of its project.
            not_before=func.to_timestamp(0),
        )
        .returning(BatchRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        row = get(session, project_id, batch_id)
        if row.status not in ("cancelling", "cancelled"):
            raise InvalidRequest(f"Cannot cancel a batch with status '{row.status}'.")
    return row


def runnable(session: Session, limit: int = 20) -> list[str]:
    """Batches that somebody ought to work on and nobody does. Whose turn it is, `batch_turns` says."""
    query = select(BatchRow.id).where(is_free()).order_by(BatchRow.not_before).limit(limit)
    return list(session.scalars(query))


def active(session: Session, batch_ids: Sequence[str]) -> set[str]:
    """Those of the ids whose batches have not ended."""
    query = select(BatchRow.id).where(BatchRow.id.in_(batch_ids), BatchRow.status.in_(ACTIVE))
    return set(session.scalars(query))


def claim(session: Session, batch_id: str, owner: str) -> Claim | None:
    """Take the batch if it is free. A lease that ran out means that its owner died: a crash."""
    is_abandoned = BatchRow.lease_expires_at.is_not(None)
    return _changed(
        session,
        [BatchRow.id == batch_id, is_free()],
        lease_owner=owner,
        lease_token=BatchRow.lease_token + 1,
        lease_expires_at=_lease_end(),
        claimed_at=func.clock_timestamp(),
        crashes=BatchRow.crashes + case((is_abandoned, 1), else_=0),
    )


def renew(session: Session, held: Claim, **values: Any) -> Claim:
    """Write `values`, extend the lease and see how the batch stands; raises LostLease."""
    found = _changed(session, _is_mine(held), lease_expires_at=_lease_end(), **values)
    if found is None:
        raise LostLease(held.batch.id)
    return found


def begin(session: Session, held: Claim, *, model: str | None, num_lines: int) -> Claim:
    """The input is fine. Without effect on a batch that is no longer `validating`."""
    _changed(
        session,
        [*_is_mine(held), BatchRow.status == "validating"],
        status="in_progress",
        in_progress_at=func.clock_timestamp(),
        model=model,
        num_lines=num_lines,
    )
    return renew(session, held)


def finalize(session: Session, held: Claim) -> Claim:
    """No more lines are asked. Without effect on a batch that is no longer `in_progress`."""
    _changed(
        session,
        [*_is_mine(held), BatchRow.status == "in_progress"],
        status="finalizing",
        finalizing_at=func.clock_timestamp(),
    )
    return renew(session, held)


def end(session: Session, held: Claim, status: Ending, **values: Any) -> BatchRow:
    """The last write, which gives the lease up. Raises LostLease.

    It holds only if the batch stands as it stood in `held`.
    """
    found = _changed(
        session,
        [*_is_mine(held), BatchRow.status == held.batch.status],
        status=status,
        **{f"{status}_at": func.clock_timestamp()},
        lease_token=BatchRow.lease_token + 1,
        lease_owner=None,
        lease_expires_at=None,
        **values,
    )
    if found is None:
        raise LostLease(held.batch.id)
    webhooks.record(session, found.batch.project_id, _WEBHOOK_EVENTS[status], held.batch.id)
    return found.batch


def release(session: Session, held: Claim, *, after_s: float = 0, is_crash: bool = False) -> None:
    """Give the batch back unfinished, for any process to go on with `after_s` from now.

    Raises LostLease. Whatever of this process is still on its way comes too late from here on.
    """
    found = _changed(
        session,
        _is_mine(held),
        lease_token=BatchRow.lease_token + 1,
        lease_owner=None,
        lease_expires_at=None,
        not_before=func.clock_timestamp() + timedelta(seconds=after_s),
        crashes=BatchRow.crashes + (1 if is_crash else 0),
    )
    if found is None:
        raise LostLease(held.batch.id)


def expire_leases(session: Session, owners: list[str]) -> None:
    """Free the batches of processes that are known to be dead, ahead of time, and fence those out."""
    session.execute(
        update(BatchRow)
        .where(BatchRow.lease_owner.in_(owners), BatchRow.lease_expires_at.is_not(None))
        .values(
            lease_token=BatchRow.lease_token + 1,
            lease_expires_at=func.clock_timestamp() - timedelta(seconds=1),
        )
        .execution_options(synchronize_session=False)
    )


def _changed(session: Session, conditions: Sequence[Any], **values: Any) -> Claim | None:
    found = session.execute(
        update(BatchRow)
        .where(*conditions)
        .values(**values)
        .returning(BatchRow, func.clock_timestamp() >= BatchRow.expires_at)
        .execution_options(populate_existing=True)
    ).one_or_none()
    return None if found is None else Claim(found[0], found[0].lease_token, found[1])


def _of_project(project_id: str) -> Select[BatchRow]:
    return select(BatchRow).where(BatchRow.project_id == project_id)


def _lease_end() -> Any:
    return func.clock_timestamp() + timedelta(seconds=LEASE_S)


def _is_mine(held: Claim) -> tuple[Any, ...]:
    return (
        BatchRow.id == held.batch.id,
        BatchRow.lease_token == held.lease_token,
        BatchRow.status.in_(ACTIVE),
    )


def is_free() -> Any:
    """Somebody ought to work on the batch and nobody does."""
    now = func.clock_timestamp()
    return and_(
        BatchRow.status.in_(ACTIVE),
        BatchRow.not_before <= now,
        or_(BatchRow.lease_expires_at.is_(None), BatchRow.lease_expires_at < now),
    )
