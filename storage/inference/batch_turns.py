"""Whose batch is worked on next: the projects take turns, and none can fill all places of a process.

As with webhooks, the n-th batch of a project may only begin in the first `num_places / n` places. Who has the
fewest batches under way comes first, then who has waited longest since a batch of its own was begun.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, text, true
from sqlalchemy.orm import Session

from storage import leases
from storage.leases import Claim
from storage.organization.projects import ProjectRow

from .batches import BatchRow

# Any number will do, as long as every process uses the same.
_LOCK = 7_021_530_915


@dataclass(frozen=True)
class Next:
    batch_id: str
    project_id: str
    num_under_way: int
    """Batches of its project."""


def claim(session: Session, owner: str, num_places: int) -> Claim[BatchRow] | None:
    """Take the batch whose turn it is, if one is free and `owner` has a place for it."""
    # Two that choose at the same time would both choose the same.
    session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    chosen = find(session, owner, num_places)
    return None if chosen is None else leases.claim(session, BatchRow, chosen.batch_id, owner)


def find(
    session: Session, owner: str, num_places: int, *, without: str | None = None
) -> Next | None:
    """The batch whose turn it is with `owner`, as if it did not work on `without`.

    The work grows with the number of projects and not with what waits.
    """
    under_way = (
        select(
            BatchRow.project_id,
            func.count().label("num"),
            func.count().filter(BatchRow.lease_owner == owner).label("num_here"),
        )
        .where(leases.is_under_way(BatchRow), BatchRow.id.is_distinct_from(without))
        .group_by(BatchRow.project_id)
        .cte()
    )
    first = (
        select(BatchRow.id, BatchRow.project_id, BatchRow.not_before)
        .where(BatchRow.project_id == ProjectRow.id, leases.is_free(BatchRow))
        .order_by(BatchRow.not_before)
        .limit(1)
        .correlate(ProjectRow)
        .lateral()
    )
    served_at = leases.last_served_at(BatchRow, first.c.project_id)
    place = func.coalesce(select(func.sum(under_way.c.num_here)).scalar_subquery(), 0) + 1
    turn = func.coalesce(under_way.c.num_here, 0) + 1
    num = func.coalesce(under_way.c.num, 0)
    found = session.execute(
        select(first.c.id, first.c.project_id, num)
        .select_from(ProjectRow)
        .join(first, true())
        .outerjoin(under_way, under_way.c.project_id == first.c.project_id)
        .where(turn * place <= num_places)
        .order_by(num, served_at.nulls_first(), first.c.not_before)
        .limit(1)
    ).one_or_none()
    return None if found is None else Next(*found)


def must_give_way(
    session: Session, held: Claim[BatchRow], owner: str, num_places: int, *, turn_is_over: bool
) -> bool:
    """Whether a batch that waits can only begin once this one lets go, and ought to.

    That of a project with fewer batches under way comes first at once; any other, when the turn is over.
    """
    if find(session, owner, num_places) is not None:
        return False
    waiting = find(session, owner, num_places, without=held.row.id)
    if waiting is None:
        return False
    own = select(func.count()).where(
        leases.is_under_way(BatchRow), BatchRow.project_id == held.row.project_id
    )
    is_unfair = waiting.num_under_way + 1 < session.scalars(own).one()
    return turn_is_over or is_unfair
