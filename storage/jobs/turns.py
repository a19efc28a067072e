"""Whose turn it is when a worker is free: one statement picks the job and takes it.

A job that was interrupted goes on before another begins. Otherwise it is the turn of the project that has the
fewest jobs under way, among those of the one that was served longest ago, and its oldest job is next. So
however many jobs a project queues, another's waits for one of them, not for all.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ScalarSelect, Subquery, func, or_, select, true
from sqlalchemy.orm import Session, aliased

from storage import leases
from storage.leases import Claim
from storage.organization.projects import ProjectRow

from .jobs import JobRow

_DEPTH = 8
"""So many jobs are looked at, for workers that choose in the same instant."""


def claim_next(session: Session, owner: str) -> Claim[JobRow] | None:
    """Take the job whose turn it is; None if there is nothing to do."""
    return leases.claim(session, JobRow, _next(), owner)


def _next() -> ScalarSelect[str]:
    """The id of the job, whose row is locked; what others have locked this moment is passed over."""
    job, turns = aliased(JobRow), _turns()
    return (
        select(job.id)
        .join(turns, turns.c.id == job.id)
        .where(leases.is_free(job))
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
        .where(job.project_id == ProjectRow.id, leases.is_free(job))
        .order_by(job.created_at, job.id)
        .limit(_DEPTH)
        .correlate(ProjectRow)
        .lateral("oldest")
    )
    is_interrupted = or_(oldest.c.status == "running", oldest.c.lease_expires_at.is_not(None))
    order = (
        is_interrupted.desc(),
        _num_running(),
        leases.last_served_at(JobRow, ProjectRow.id).nulls_first(),
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
        .where(other.project_id == ProjectRow.id, leases.is_under_way(other))
        .correlate(ProjectRow)
        .scalar_subquery()
    )
