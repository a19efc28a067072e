"""Whose turn it is when a worker is free: one statement picks the job and takes it.

A job that was interrupted goes on before another begins. Otherwise it is the turn of the project that has the
fewest jobs under way, among those of the one that was served longest ago, and its oldest job is next. So
however many jobs a project queues, another's waits for one of them, not for all.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ScalarSelect, Subquery, and_, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from storage.organization.projects import ProjectRow

from . import jobs
from .jobs import Claim, JobRow

_DEPTH = 8
"""So many jobs are looked at, for workers that choose in the same instant."""


def claim_next(session: Session, owner: str) -> Claim | None:
    """Take the job whose turn it is; None if there is nothing to do."""
    return jobs.claim(session, _next(), owner)


def _next() -> ScalarSelect[str]:
    """The id of the job, whose row is locked; what others have locked this moment is passed over."""
    job, turns = aliased(JobRow), _turns()
    return (
        select(job.id)
        .join(turns, turns.c.id == job.id)
        .where(jobs.is_free(job))
        .order_by(turns.c.turn)
        .limit(1)
        .with_for_update(of=job, skip_locked=True)
        .scalar_subquery()
    )


def _turns() -> Subquery:
    """The jobs that are next, and the order of their turns."""
    job = aliased(JobRow)
    oldest = (
        select(job)
        .where(job.project_id == ProjectRow.id, jobs.is_free(job))
        .order_by(job.created_at, job.id)
        .limit(_DEPTH)
        .correlate(ProjectRow)
        .lateral("oldest")
    )
    is_interrupted = or_(oldest.c.status == "running", oldest.c.lease_expires_at.is_not(None))
    order = (
        is_interrupted.desc(),
        _num_running(),
        _last_served_at().nulls_first(),
        oldest.c.created_at,
        oldest.c.id,
    )
    turn = func.row_number().over(order_by=order).label("turn")
    query = select(oldest.c.id, turn).select_from(ProjectRow).join(oldest, true())
    return query.order_by(turn).limit(_DEPTH).subquery("turns")


def _num_running() -> Any:
    other = aliased(JobRow)
    return (
        select(func.count())
        .where(
            and_(
                other.project_id == ProjectRow.id,
                other.lease_owner.is_not(None),
                other.lease_expires_at >= func.clock_timestamp(),
            )
        )
        .correlate(ProjectRow)
        .scalar_subquery()
    )


def _last_served_at() -> Any:
    other = aliased(JobRow)
    return (
        select(func.max(other.claimed_at))
        .where(other.project_id == ProjectRow.id)
        .correlate(ProjectRow)
        .scalar_subquery()
    )
