"""Fine-tunes: the jobs of the old API, of before there was /v1/fine_tuning. One queue and one worker for both.

What only the old API knows is in the row's `legacy`:

    model                the name that was asked for, for example `curie`
    name                 what a model's name begins with
    prompt_loss_weight   as asked for, or None
    queue_number         how many jobs were before it when it came
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Integer, cast, func, or_, select
from sqlalchemy.orm import Session

from storage.database import Json

from . import events, jobs
from .events import EventRow
from .jobs import JobRow

RESULTS_FILENAME = "compiled_results.csv"


def create(session: Session, row: JobRow, warnings: Sequence[str]) -> JobRow:
    """Add a fine-tune with its first events. Ring the queue after the commit."""
    waiting = select(func.count()).where(JobRow.status.in_(JobRow.RUNNABLE))
    row.legacy = {**(row.legacy or {}), "queue_number": session.scalar(waiting)}
    jobs.create(session, row)
    for number, text in enumerate(warnings):
        events.add(session, row.id, f"warning:{number}", text, level="warn", data={})
    return row


def get(session: Session, project_id: str, job_id: str) -> JobRow:
    return jobs.get(session, project_id, job_id, is_legacy=True)


def all(session: Session, project_id: str) -> list[JobRow]:
    """Oldest first, as the old API has them: it knows no pages."""
    query = jobs.of_project(project_id, is_legacy=True)
    return list(session.scalars(query.order_by(JobRow.created_at, JobRow.id)))


def cancel(session: Session, project_id: str, job_id: str) -> JobRow:
    return jobs.cancel(session, project_id, job_id, is_legacy=True)


def told(session: Session, job: JobRow) -> list[EventRow]:
    """The events that the old API tells of, oldest first: of all the steps only those that end an epoch."""
    step = cast(EventRow.data["step"].astext, Integer)
    total_steps = cast(EventRow.data["total_steps"].astext, Integer)
    steps_per_epoch = func.nullif(total_steps / job.hyperparameters["n_epochs"], 0)
    query = (
        select(EventRow)
        .where(
            EventRow.job_id == job.id,
            or_(EventRow.type != "metrics", step % steps_per_epoch == 0),
        )
        .order_by(EventRow.seq)
    )
    return list(session.scalars(query))


def updated_at(session: Session, job_ids: Sequence[str]) -> dict[str, datetime]:
    """When something was last told of each of the jobs."""
    query = (
        select(EventRow.job_id, func.max(EventRow.created_at).label("at"))
        .where(EventRow.job_id.in_(job_ids))
        .group_by(EventRow.job_id)
    )
    return {row.job_id: row.at for row in session.execute(query)}


def ended_epoch(job: JobRow, metrics: Json) -> int | None:
    """Which epoch the step of a metrics event ended; None if it ended none."""
    n_epochs = int(job.hyperparameters["n_epochs"])
    steps_per_epoch = metrics["total_steps"] // n_epochs
    if not steps_per_epoch or metrics["step"] % steps_per_epoch:
        return None
    return int(metrics["step"] // steps_per_epoch)
