"""Forecasts: what a job will take. One is attached to each job when its rows are tokenised, others are asked for.

Those of jobs get their outcome when the job ends, whichever; what counts for calibration are jobs that ran through.

    in_progress -> completed | failed          (an asked one; the errands work on it under a lease)
    completed                                  (a job's)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, Select, case, delete, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import ForecastNotFound, InvalidRequest
from storage import leases, pages
from storage.database import Base, CreatedAt, Int64, Json, Timestamp
from storage.ids import new_id
from storage.leases import Claim, Leased

ID_PREFIX = "forecast-"
KEPT_S = 30 * 24 * 3600
"""How long one is kept that was asked for. Those of jobs stay as long as their jobs."""
MAX_UNFINISHED = 16
"""Of a project."""
# Any number will do, as long as every process uses the same.
_LOCK = 7_021_530_925
_IS_UNFINISHED = text("status = 'in_progress'")
_IS_COUNTED = text("is_counted")


class ForecastRow(Leased, Base):
    __tablename__ = "forecasts"
    LEASE_S = 30
    RUNNABLE = ("in_progress",)
    __table_args__ = (
        Index(None, "project_id", "created_at", "id"),
        Index("ix_forecasts_unfinished", "created_at", postgresql_where=_IS_UNFINISHED),
        Index("ix_forecasts_counted", "host_type", "ended_at", postgresql_where=_IS_COUNTED),
        Index(None, "project_id", "claimed_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    """None for one that was asked for without a job."""
    status: Mapped[str] = mapped_column(default="in_progress")
    created_at: Mapped[CreatedAt]
    finished_at: Mapped[Timestamp | None]
    asked: Mapped[Json]
    """As a job's columns say it: model, base_model, method, hyperparameters, …"""
    error: Mapped[Json | None]
    """`{code, message, param}` of what such a job would fail with."""

    # What jobs are alike by, and what was forecast.
    base_model: Mapped[str]
    method: Mapped[str]
    kind: Mapped[str | None]
    precision: Mapped[str | None]
    host_type: Mapped[str | None]
    num_parameters: Mapped[Int64 | None]
    num_steps: Mapped[int | None]
    num_tokens: Mapped[Int64 | None]
    work_tokens: Mapped[float | None]
    """Those that are only measured count a third."""
    seconds_p05: Mapped[float | None]
    seconds_p10: Mapped[float | None]
    seconds_p50: Mapped[float | None]
    seconds_p90: Mapped[float | None]
    seconds_p95: Mapped[float | None]
    result: Mapped[Json | None]
    """All of it, as it is told."""

    # How it went.
    started_at: Mapped[Timestamp | None]
    """The first step came next."""
    num_starts: Mapped[int] = mapped_column(default=0)
    peak_memory_bytes: Mapped[Int64 | None]
    """Of the trainer, with whatever else it held."""
    outcome: Mapped[str | None]
    """The job's last status."""
    ended_at: Mapped[Timestamp | None]
    actual_seconds: Mapped[float | None]
    """From the first step to the model."""
    actual_steps: Mapped[int | None]
    actual_tokens: Mapped[Int64 | None]
    is_counted: Mapped[bool] = mapped_column(default=False)
    """The job ran through without a break, as far as was forecast."""


def create(session: Session, *, project_id: str, asked: Json) -> ForecastRow:
    """Asks for one. Run the errand after the commit. Raises InvalidRequest for one more than a project may have."""
    session.execute(
        delete(ForecastRow).where(
            ForecastRow.project_id == project_id,
            ForecastRow.job_id.is_(None),
            ForecastRow.created_at < func.clock_timestamp() - timedelta(seconds=KEPT_S),
        )
    )
    unfinished = select(func.count()).where(
        ForecastRow.project_id == project_id, ForecastRow.status.in_(ForecastRow.RUNNABLE)
    )
    if session.scalars(unfinished).one() >= MAX_UNFINISHED:
        raise InvalidRequest(
            f"The project has {MAX_UNFINISHED} forecasts that are still being made; wait for one.",
            code="too_many_forecasts",
        )
    row = ForecastRow(
        id=new_id(ID_PREFIX),
        project_id=project_id,
        asked=asked,
        base_model=asked["base_model"],
        method=asked["method"],
    )
    session.add(row)
    session.flush()
    return row


def attach(
    session: Session,
    forecast_id: str,
    *,
    project_id: str,
    job_id: str,
    asked: Json,
    values: Mapping[str, Any],
) -> None:
    """A job's, whose rows are tokenised."""
    session.add(
        ForecastRow(
            id=forecast_id,
            project_id=project_id,
            job_id=job_id,
            status="completed",
            finished_at=func.clock_timestamp(),
            asked=asked,
            **values,
        )
    )
    session.flush()


def of_job(session: Session, job_id: str) -> ForecastRow | None:
    return session.scalar(select(ForecastRow).where(ForecastRow.job_id == job_id))


def get(session: Session, project_id: str, forecast_id: str) -> ForecastRow:
    row = session.scalar(of_project(project_id).where(ForecastRow.id == forecast_id))
    if row is None:
        raise ForecastNotFound(forecast_id)
    return row


def of_project(project_id: str) -> Select[ForecastRow]:
    return select(ForecastRow).where(ForecastRow.project_id == project_id)


def page(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> pages.RowPage[ForecastRow]:
    """Newest first, those of jobs among them."""
    query = of_project(project_id)
    return pages.read(
        session,
        query,
        ForecastRow.created_at,
        ForecastRow.id,
        after=session.scalar(query.where(ForecastRow.id == after)) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def claim(session: Session, owner: str, num_places: int) -> Claim[ForecastRow] | None:
    """Take the one whose turn it is, if `owner` has a place for it."""
    return leases.claim_next(session, ForecastRow, owner, num_places, lock=_LOCK)


def complete(session: Session, held: Claim[ForecastRow], values: Mapping[str, Any]) -> ForecastRow:
    """The last write, which gives the lease up. Raises LostLease."""
    return _end(session, held, "completed", **values)


def fail(session: Session, held: Claim[ForecastRow], error: Json) -> ForecastRow:
    """The last write, which gives the lease up. Raises LostLease."""
    return _end(session, held, "failed", error=error)


def _end(session: Session, held: Claim[ForecastRow], status: str, **values: Any) -> ForecastRow:
    return leases.write(
        session,
        held,
        status=status,
        finished_at=func.clock_timestamp(),
        **leases.nobodys(ForecastRow),
        **values,
    )


def started(session: Session, job_id: str) -> None:
    """The job's first step comes next, or one behind a break."""
    _change(
        session,
        job_id,
        started_at=func.coalesce(ForecastRow.started_at, func.clock_timestamp()),
        num_starts=ForecastRow.num_starts + 1,
    )


def saw_memory(session: Session, job_id: str, num_bytes: int) -> None:
    _change(
        session,
        job_id,
        peak_memory_bytes=func.greatest(
            func.coalesce(ForecastRow.peak_memory_bytes, num_bytes), num_bytes
        ),
    )


def ended(session: Session, job_id: str, status: str, last: Json | None) -> None:
    """The job is over. `last` is what was measured behind its last step."""
    tokens, step = (last or {}).get("num_tokens"), (last or {}).get("step")
    ran_through = (ForecastRow.num_starts == 1) & (ForecastRow.num_steps == step)
    now = func.clock_timestamp()
    _change(
        session,
        job_id,
        outcome=status,
        ended_at=now,
        actual_seconds=func.extract("epoch", now - ForecastRow.started_at),
        actual_steps=step,
        actual_tokens=tokens,
        is_counted=case((ran_through, True), else_=False) if status == "succeeded" else False,
    )


def _change(session: Session, job_id: str, **values: Any) -> None:
    session.execute(
        update(ForecastRow)
        .where(ForecastRow.job_id == job_id)
        .values(**values)
        .execution_options(synchronize_session=False)
    )
