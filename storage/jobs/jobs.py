"""Fine-tuning jobs. The row is the truth: who may work on a job is decided here and nowhere else.

A worker owns a job by a lease: an expiry and a fencing token that grows with each claim. Each of its
writes says `WHERE id = :id AND lease_token = :token`; when that finds no row, somebody else owns the job
now (another worker, or the user who cancelled it) and `LostLease` tells the worker to stop. All times are
the database's, so no clock but one decides.

    validating_files -> queued -> running -> succeeded | failed | cancelled
    any of the first three -> paused -> queued          (`storage.jobs.pauses`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import (
    ForeignKey,
    Index,
    ScalarSelect,
    Select,
    and_,
    case,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, JobNotFound
from storage import pages
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.webhooks import webhooks

from . import events

RUNNABLE = ("validating_files", "queued", "running")
"""States in which somebody ought to work on the job."""
ACTIVE = (*RUNNABLE, "paused")
"""States of a job that has not ended."""
TERMINAL = ("succeeded", "failed", "cancelled")
LEASE_S = 30
MAX_CRASHES = 3
"""Crashes in a row without a new checkpoint after which a job is given up as `worker_lost`."""
KEPT_RESUME_POINTS = 2
_IS_RUNNABLE = text("status IN ('validating_files', 'queued', 'running')")
_WEBHOOK_EVENTS: dict[str, webhooks.EventType] = {
    "succeeded": "fine_tuning.job.succeeded",
    "failed": "fine_tuning.job.failed",
    "cancelled": "fine_tuning.job.cancelled",
}


class LostLease(Exception):
    """The job is not this worker's any more. Nothing may be written for it."""


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project_id", "created_at", "id"),
        # What `storage.jobs.turns` asks of a project: its oldest job that may be next, its jobs under way,
        # and when it was last served.
        Index("ix_jobs_runnable", "project_id", "created_at", "id", postgresql_where=_IS_RUNNABLE),
        Index("ix_jobs_leased", "project_id", postgresql_where=text("lease_owner IS NOT NULL")),
        Index(None, "project_id", "claimed_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    organization_id: Mapped[str]
    organization_slug: Mapped[str]
    status: Mapped[str] = mapped_column(default="validating_files")

    # What was asked for.
    model: Mapped[str]
    """The base's id, aliases resolved, or the tuned model that training goes on from."""
    base_model: Mapped[str]
    init_artifact_id: Mapped[str | None]
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    method: Mapped[str]
    hyperparameters: Mapped[Json]
    """As asked, "auto" included; numbers once the files are validated."""
    suffix: Mapped[str | None]
    seed: Mapped[int]
    metadata_: Mapped[Json | None] = mapped_column("metadata")
    integrations: Mapped[list[Json] | None]
    legacy: Mapped[Json | None]
    """What only the old API (`storage.jobs.fine_tunes`) knows; None for a job of the present one."""

    # How it went.
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Timestamp | None]
    estimated_finish: Mapped[Timestamp | None]
    trained_tokens: Mapped[Int64 | None]
    fine_tuned_model: Mapped[str | None]
    result_files: Mapped[list[str]] = mapped_column(default=list)
    error: Mapped[Json | None]

    # Who works on it, and from where the work goes on.
    train_config: Mapped[Json | None]
    lease_owner: Mapped[str | None]
    lease_token: Mapped[Int64] = mapped_column(default=0)
    lease_expires_at: Mapped[Timestamp | None]
    claimed_at: Mapped[Timestamp | None]
    """When a worker last took it."""
    not_before: Mapped[CreatedAt]
    pause_requested_at: Mapped[Timestamp | None]
    """Set while the worker that has the job has yet to stop for a pause."""
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    resume_points: Mapped[list[Json]] = mapped_column(default=list)
    """Newest first: `{key, sha256, size_bytes, step}` of a blob with the trainer's whole state."""


@dataclass(frozen=True)
class Claim:
    """The right to work on a job, until the lease runs out."""

    job: JobRow
    lease_token: int


def create(session: Session, row: JobRow) -> JobRow:
    """Add a job with its first event. Ring the queue after the commit."""
    session.add(row)
    session.flush()
    events.add(session, row.id, "created", f"Created fine-tuning job: {row.id}", data={})
    return row


def get(session: Session, project_id: str, job_id: str, *, is_legacy: bool = False) -> JobRow:
    """Each of the two APIs knows its own jobs only."""
    row = session.scalar(of_project(project_id, is_legacy=is_legacy).where(JobRow.id == job_id))
    if row is None:
        raise JobNotFound(job_id)
    return row


def of_project(project_id: str, *, is_legacy: bool = False) -> Select[JobRow]:
    is_of_api = JobRow.legacy.is_not(None) if is_legacy else JobRow.legacy.is_(None)
    return select(JobRow).where(JobRow.project_id == project_id, is_of_api)


def page(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | Literal["null"] | None = None,
) -> pages.RowPage[JobRow]:
    """Newest first; `metadata` selects jobs that carry all the pairs, "null" those that carry none."""
    query = of_project(project_id)
    if metadata == "null":
        query = query.where(JobRow.metadata_.is_(None))
    elif metadata is not None:
        query = query.where(JobRow.metadata_.contains(dict(metadata)))
    cursor = of_project(project_id).where(JobRow.id == after)
    return pages.read(
        session,
        query,
        JobRow.created_at,
        JobRow.id,
        after=session.scalar(cursor) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def cancel(session: Session, project_id: str, job_id: str, *, is_legacy: bool = False) -> JobRow:
    """End the job now. A worker that has it loses its lease and stops the trainer."""
    get(session, project_id, job_id, is_legacy=is_legacy)
    row = _end(session, job_id, None, "cancelled", {})
    if row is None:
        raise impossible(get(session, project_id, job_id, is_legacy=is_legacy), "cancelled")
    events.add(session, job_id, "cancelled", "The job was cancelled", data={})
    return row


def runnable(session: Session, limit: int = 1000) -> list[str]:
    """Jobs that somebody ought to work on and nobody does, oldest first."""
    return list(
        session.scalars(select(JobRow.id).where(is_free()).order_by(JobRow.created_at).limit(limit))
    )


def active(session: Session, job_ids: list[str]) -> set[str]:
    """Those of the ids whose jobs have not ended."""
    query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.status.in_(ACTIVE))
    return set(session.scalars(query))


def ended(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Those of the ids whose jobs are over."""
    query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.status.in_(TERMINAL))
    return set(session.scalars(query))


def claim(session: Session, job_id: str | ScalarSelect[str], owner: str) -> Claim | None:
    """Take the job if it is free; None if there is nothing to do for it.

    A lease that ran out means that its worker died: that counts as a crash.
    """
    is_abandoned = JobRow.lease_expires_at.is_not(None)
    row = session.scalar(
        update(JobRow)
        .where(JobRow.id == job_id, is_free())
        .values(
            claimed_at=func.clock_timestamp(),
            lease_owner=owner,
            lease_token=JobRow.lease_token + 1,
            lease_expires_at=_lease_end(),
            attempt=JobRow.attempt + 1,
            crashes=JobRow.crashes + case((is_abandoned, 1), else_=0),
        )
        .returning(JobRow)
        .execution_options(populate_existing=True)
    )
    return None if row is None else Claim(row, row.lease_token)


def renew(session: Session, claim: Claim, **values: Any) -> JobRow:
    """Write `values` and extend the lease; raises LostLease."""
    row = session.scalar(
        update(JobRow)
        .where(*_is_mine(claim))
        .values(lease_expires_at=_lease_end(), **values)
        .returning(JobRow)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise LostLease(claim.job.id)
    return row


def add_resume_point(session: Session, claim: Claim, point: Json) -> list[Json]:
    """Record a blob to go on from; gives the points that fell off, whose blobs may go."""
    row = renew(session, claim)
    points = [point, *(p for p in row.resume_points if p["key"] != point["key"])]
    # Getting this far is progress, so the count of crashes starts anew.
    renew(session, claim, resume_points=points[:KEPT_RESUME_POINTS], crashes=0)
    return points[KEPT_RESUME_POINTS:]


def release(session: Session, claim: Claim, *, after_s: float = 0, is_crash: bool = False) -> None:
    """Give the job back unfinished, for any worker to go on with `after_s` from now.

    Raises LostLease. Whatever of this worker is still on its way comes too late from here on.
    """
    released = session.scalar(
        update(JobRow)
        .where(*_is_mine(claim))
        .values(
            lease_token=JobRow.lease_token + 1,
            lease_owner=None,
            lease_expires_at=None,
            not_before=func.clock_timestamp() + timedelta(seconds=after_s),
            attempt=JobRow.attempt if is_crash else JobRow.attempt - 1,
            crashes=JobRow.crashes + (1 if is_crash else 0),
        )
        .returning(JobRow.id)
        .execution_options(synchronize_session=False)
    )
    if released is None:
        raise LostLease(claim.job.id)


def expire_leases(session: Session, owners: list[str]) -> None:
    """Free the jobs of workers that are known to be dead, ahead of time, and fence those out."""
    session.execute(
        update(JobRow)
        .where(JobRow.lease_owner.in_(owners), JobRow.lease_expires_at.is_not(None))
        .values(
            lease_token=JobRow.lease_token + 1,
            lease_expires_at=func.clock_timestamp() - timedelta(seconds=1),
        )
        .execution_options(synchronize_session=False)
    )


def succeed(session: Session, claim: Claim, **values: Any) -> JobRow:
    return _finish(session, claim, "succeeded", values)


def fail(
    session: Session, claim: Claim, *, code: str, message: str, param: str | None = None
) -> JobRow:
    error = {"code": code, "message": message, "param": param}
    row = _finish(session, claim, "failed", {"error": error})
    events.add(session, row.id, "failed", message, level="error", data=error)
    return row


def _finish(session: Session, claim: Claim, status: str, values: Mapping[str, Any]) -> JobRow:
    row = _end(session, claim.job.id, claim.lease_token, status, values)
    if row is None:
        raise LostLease(claim.job.id)
    return row


def _end(
    session: Session,
    job_id: str,
    lease_token: int | None,
    status: str,
    values: Mapping[str, Any],
) -> JobRow | None:
    """The one place where a job ends, whatever the ending; None if it may not."""
    is_allowed = [JobRow.id == job_id, JobRow.status.in_(ACTIVE)]
    if lease_token is not None:
        is_allowed.append(JobRow.lease_token == lease_token)
    row = session.scalar(
        update(JobRow)
        .where(*is_allowed)
        .values(
            status=status,
            finished_at=func.clock_timestamp(),
            # Fences out whoever worked on it.
            lease_token=JobRow.lease_token + 1,
            lease_owner=None,
            lease_expires_at=None,
            estimated_finish=None,
            pause_requested_at=None,
            **values,
        )
        .returning(JobRow)
        .execution_options(populate_existing=True)
    )
    if row is not None:
        webhooks.record(session, row.project_id, _WEBHOOK_EVENTS[status], job_id)
    return row


def locked(session: Session, project_id: str, job_id: str) -> JobRow:
    """The row, which nobody else changes until this transaction ends."""
    row = session.scalar(
        of_project(project_id)
        .where(JobRow.id == job_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise JobNotFound(job_id)
    return row


def impossible(row: JobRow, wanted: str) -> InvalidRequest:
    """What to say when a job that has ended, or is so already, is to become `wanted`."""
    been = "been " if row.status in ("cancelled", "paused") else ""
    return InvalidRequest(
        f"Job {row.id} has already {been}{row.status} and cannot be {wanted}.",
        param="fine_tune_id",
    )


def _lease_end() -> Any:
    return func.clock_timestamp() + timedelta(seconds=LEASE_S)


def _is_mine(claim: Claim) -> tuple[Any, ...]:
    return (
        JobRow.id == claim.job.id,
        JobRow.lease_token == claim.lease_token,
        JobRow.status.in_(RUNNABLE),
    )


def is_free(job: type[JobRow] = JobRow) -> Any:
    """Somebody ought to work on the job, and nobody does."""
    return and_(
        job.status.in_(RUNNABLE), job.not_before <= func.clock_timestamp(), has_no_worker(job)
    )


def has_no_worker(job: type[JobRow] = JobRow) -> Any:
    """No worker has the job, or the one that had it died."""
    return or_(job.lease_expires_at.is_(None), job.lease_expires_at < func.clock_timestamp())
