"""Fine-tuning jobs. The row is the truth: who may work on a job is decided by its lease (`storage.leases`).

validating_files -> queued -> running -> succeeded | failed | cancelled
any of the first three -> paused -> queued          (`storage.jobs.pauses`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import ForeignKey, Index, Select, func, or_, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, JobNotFound
from storage import leases, pages
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.forecasts import forecasts
from storage.leases import Claim, Leased, LostLease
from storage.webhooks import webhooks

from . import events

TERMINAL = ("succeeded", "failed", "cancelled")
MAX_CRASHES = 3
"""Crashes in a row without a new checkpoint after which a job is given up as `worker_lost`."""
KEPT_RESUME_POINTS = 2
_IS_RUNNABLE = text("status IN ('validating_files', 'queued', 'running')")
_WEBHOOK_EVENTS: dict[str, webhooks.EventType] = {
    "succeeded": "fine_tuning.job.succeeded",
    "failed": "fine_tuning.job.failed",
    "cancelled": "fine_tuning.job.cancelled",
}


class JobRow(Leased, Base):
    __tablename__ = "jobs"
    LEASE_S = 30
    RUNNABLE = ("validating_files", "queued", "running")
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
    tuning: Mapped[Json | None]
    """What it changes of the base, as `hyperparameters`; None where nothing was asked."""
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
    data_sha256: Mapped[Json | None]
    """Of the files that it was given, by the fields that name them; None where an earlier version made it."""
    forecast: Mapped[Json | None]
    """The gist of the job's forecast (`storage.forecasts`), once its files are validated."""
    trained_tokens: Mapped[Int64 | None]
    fine_tuned_model: Mapped[str | None]
    result_files: Mapped[list[str]] = mapped_column(default=list)
    error: Mapped[Json | None]

    # From where the work goes on.
    train_config: Mapped[Json | None]
    pause_requested_at: Mapped[Timestamp | None]
    """Set while the worker that has the job has yet to stop for a pause."""
    attempt: Mapped[int] = mapped_column(default=0)
    resume_points: Mapped[list[Json]] = mapped_column(default=list)
    """Newest first: `{key, sha256, size_bytes, step}` of a blob with the trainer's whole state."""

    @classmethod
    def when_claimed(cls) -> dict[str, Any]:
        return {"attempt": cls.attempt + 1}

    @classmethod
    def when_given_back(cls) -> dict[str, Any]:
        """It was no attempt."""
        return {"attempt": cls.attempt - 1}


ACTIVE = (*JobRow.RUNNABLE, "paused")
"""States of a job that has not ended."""


def create(session: Session, row: JobRow) -> JobRow:
    """Add a job with its first event. Ring the queue after the commit."""
    session.add(row)
    session.flush()
    events.add(session, row.id, "created", f"Created fine-tuning job: {row.id}", data={})
    return row


def asked(row: JobRow) -> Json:
    """All that what it will do depends on, as forecasts keep it."""
    names = ("model", "base_model", "init_artifact_id", "training_file", "validation_file")
    return {
        **{name: getattr(row, name) for name in names},
        "method": row.method,
        "hyperparameters": row.hyperparameters,
        "tuning": row.tuning,
        "seed": row.seed,
    }


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
    statuses: Sequence[str] = (),
    search: str = "",
) -> pages.RowPage[JobRow]:
    """Newest first; `metadata` selects jobs that carry all the pairs, "null" those that carry none; `search` those
    in whose id, suffix or models it stands.
    """
    query = of_project(project_id)
    if statuses:
        query = query.where(JobRow.status.in_(statuses))
    if search:
        names = (JobRow.id, JobRow.suffix, JobRow.model, JobRow.base_model, JobRow.fine_tuned_model)
        query = query.where(or_(*(name.icontains(search, autoescape=True) for name in names)))
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
    row = _end(session, "cancelled", {}, JobRow.id == job_id, JobRow.status.in_(ACTIVE))
    if row is None:
        raise impossible(get(session, project_id, job_id, is_legacy=is_legacy), "cancelled")
    events.add(session, job_id, "cancelled", "The job was cancelled", data={})
    return row


def active(session: Session, job_ids: list[str]) -> set[str]:
    """Those of the ids whose jobs have not ended."""
    query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.status.in_(ACTIVE))
    return set(session.scalars(query))


def ended(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Those of the ids whose jobs are over."""
    query = select(JobRow.id).where(JobRow.id.in_(job_ids), JobRow.status.in_(TERMINAL))
    return set(session.scalars(query))


def add_resume_point(session: Session, held: Claim[JobRow], point: Json) -> list[Json]:
    """Record a blob to go on from; gives the points that fell off, whose blobs may go."""
    row = leases.renew(session, held).row
    points = [point, *(p for p in row.resume_points if p["key"] != point["key"])]
    # Getting this far is progress, so the count of crashes starts anew.
    leases.write(session, held, resume_points=points[:KEPT_RESUME_POINTS], crashes=0)
    return points[KEPT_RESUME_POINTS:]


def succeed(session: Session, held: Claim[JobRow], **values: Any) -> JobRow:
    return _finish(session, held, "succeeded", values)


def fail(
    session: Session, held: Claim[JobRow], *, code: str, message: str, param: str | None = None
) -> JobRow:
    error = {"code": code, "message": message, "param": param}
    row = _finish(session, held, "failed", {"error": error})
    events.add(session, row.id, "failed", message, level="error", data=error)
    return row


def _finish(
    session: Session, held: Claim[JobRow], status: str, values: Mapping[str, Any]
) -> JobRow:
    row = _end(session, status, values, *leases.is_mine(held))
    if row is None:
        raise LostLease(held.row.id)
    return row


def _end(
    session: Session, status: str, values: Mapping[str, Any], *conditions: Any
) -> JobRow | None:
    """The one place where a job ends, whatever the ending; None if it may not."""
    row = leases.changed(
        session,
        JobRow,
        *conditions,
        status=status,
        finished_at=func.clock_timestamp(),
        **leases.nobodys(JobRow),
        estimated_finish=None,
        pause_requested_at=None,
        **values,
    )
    if row is not None:
        forecasts.ended(session, row.id, status, events.last_metrics(session, row.id))
        webhooks.record(session, row.project_id, _WEBHOOK_EVENTS[status], row.id)
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
