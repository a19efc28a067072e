"""Leases: who may work on a row just now.

A process owns a row by a lease: an expiry, and a fencing token that grows whenever the row changes hands.
Each of its writes says `WHERE id = :id AND lease_token = :token`; when that finds no row, somebody else owns
it now (another process, or nobody since its user ended it), and `LostLease` says to stop. All times are the
database's, so no clock but one decides.

Here are the columns and what may be done to them, for any kind of row; `storage.held_lease` is the lease in
the hands of a process that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ScalarSelect, and_, case, func, or_, select, text, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from storage.database import CreatedAt, Int64, Timestamp


class LostLease(Exception):
    """The row is not this process's any more. Nothing may be written for it."""


class Stopped(Exception):
    """The process is told to end; the work goes on elsewhere, and this attempt does not count."""


class Leased:
    """The columns of a row that is worked on under a lease."""

    LEASE_S: ClassVar[int]
    RUNNABLE: ClassVar[tuple[str, ...]]
    """Values of `status` in which somebody ought to work on the row."""

    id: Mapped[str]
    project_id: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[CreatedAt]

    lease_owner: Mapped[str | None]
    lease_token: Mapped[Int64] = mapped_column(default=0)
    lease_expires_at: Mapped[Timestamp | None]
    claimed_at: Mapped[Timestamp | None]
    """When somebody last took it."""
    not_before: Mapped[CreatedAt]
    crashes: Mapped[int] = mapped_column(default=0)
    """In a row, without progress."""

    @classmethod
    def when_claimed(cls) -> dict[str, Any]:
        """What else changes in a row that is taken."""
        return {}

    @classmethod
    def when_given_back(cls) -> dict[str, Any]:
        """What else changes in a row that is given back without a crash."""
        return {}


R = TypeVar("R", bound=Leased)


@dataclass(frozen=True)
class Claim(Generic[R]):
    """The right to work on a row until the lease runs out, and how the row stood at the last look."""

    row: R
    lease_token: int
    looked_at: datetime
    """By the database's clock."""


def claim(
    session: Session, kind: type[R], id: str | ScalarSelect[str], owner: str
) -> Claim[R] | None:
    """Take the row if it is free; None if there is nothing to do for it.

    A lease that ran out means that its owner died: that counts as a crash.
    """
    is_abandoned = kind.lease_expires_at.is_not(None)
    row = changed(
        session,
        kind,
        kind.id == id,
        is_free(kind),
        lease_owner=owner,
        lease_token=kind.lease_token + 1,
        lease_expires_at=_lease_end(kind),
        claimed_at=func.clock_timestamp(),
        crashes=kind.crashes + case((is_abandoned, 1), else_=0),
        **kind.when_claimed(),
    )
    return None if row is None else _claim(row)


def claim_next(
    session: Session, kind: type[R], owner: str, num_places: int, *, lock: int
) -> Claim[R] | None:
    """Take the row whose turn it is, if `owner` has a place for it. `lock` is the kind's own.

    Projects take turns: who has the fewest under way comes first, then who was served longest ago.
    """
    # Two that choose at the same time would both choose the same.
    session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": lock})
    num_here = select(func.count()).where(is_under_way(kind), kind.lease_owner == owner)
    if session.scalars(num_here).one() >= num_places:
        return None
    other = aliased(kind)
    num_of_project = (
        select(func.count())
        .where(other.project_id == kind.project_id, is_under_way(other))
        .scalar_subquery()
    )
    served_at = last_served_at(kind, kind.project_id)
    chosen = session.scalar(
        select(kind.id)
        .where(is_free(kind))
        .order_by(num_of_project, served_at.nulls_first(), kind.created_at, kind.id)
        .limit(1)
    )
    return None if chosen is None else claim(session, kind, chosen, owner)


def renew(session: Session, held: Claim[R], **values: Any) -> Claim[R]:
    """Write `values`, extend the lease and see how the row stands; raises LostLease."""
    kind = type(held.row)
    return _claim(write(session, held, lease_expires_at=_lease_end(kind), **values))


def release(
    session: Session, held: Claim[R], *, after_s: float = 0, is_crash: bool = False
) -> None:
    """Give the row back unfinished, for any process to go on with `after_s` from now.

    Raises LostLease. Whatever of this process is still on its way comes too late from here on.
    """
    kind = type(held.row)
    write(
        session,
        held,
        **nobodys(kind),
        not_before=func.clock_timestamp() + timedelta(seconds=after_s),
        crashes=kind.crashes + (1 if is_crash else 0),
        **({} if is_crash else kind.when_given_back()),
    )


def expire(session: Session, kind: type[Leased], owners: Sequence[str]) -> None:
    """Free what processes have that are known to be dead, ahead of time, and fence those out."""
    session.execute(
        update(kind)
        .where(kind.lease_owner.in_(owners), kind.lease_expires_at.is_not(None))
        .values(
            lease_token=kind.lease_token + 1,
            lease_expires_at=func.clock_timestamp() - timedelta(seconds=1),
        )
        .execution_options(synchronize_session=False)
    )


def runnable(session: Session, kind: type[Leased], limit: int) -> list[str]:
    """Rows that somebody ought to work on and nobody does, the longest due first."""
    query = select(kind.id).where(is_free(kind)).order_by(kind.not_before).limit(limit)
    return list(session.scalars(query))


def write(session: Session, held: Claim[R], /, *conditions: Any, **values: Any) -> R:
    """Write `values` if the row is still held, and as the conditions say; raises LostLease."""
    row = changed(session, type(held.row), *is_mine(held), *conditions, **values)
    if row is None:
        raise LostLease(held.row.id)
    return row


def changed(session: Session, kind: type[R], /, *conditions: Any, **values: Any) -> R | None:
    """The row with `values` written, None if there is none as the conditions say."""
    return session.scalar(
        update(kind)
        .where(*conditions)
        .values(**values)
        .returning(kind)
        .execution_options(populate_existing=True)
    )


def nobodys(kind: type[Leased]) -> dict[str, Any]:
    """What to write into a row that nobody works on from here on. Fences out whoever did."""
    return {
        "lease_token": kind.lease_token + 1,
        "lease_owner": None,
        "lease_expires_at": None,
    }


def is_mine(held: Claim[Any]) -> tuple[Any, ...]:
    kind = type(held.row)
    return (
        kind.id == held.row.id,
        kind.lease_token == held.lease_token,
        kind.status.in_(kind.RUNNABLE),
    )


def is_free(kind: type[Leased]) -> Any:
    """Somebody ought to work on the row, and nobody does."""
    return and_(
        kind.status.in_(kind.RUNNABLE),
        kind.not_before <= func.clock_timestamp(),
        has_no_owner(kind),
    )


def has_no_owner(kind: type[Leased]) -> Any:
    """Nobody has the row, or whoever had it died."""
    return or_(kind.lease_expires_at.is_(None), kind.lease_expires_at < func.clock_timestamp())


def is_under_way(kind: type[Leased]) -> Any:
    """Somebody works on the row."""
    return and_(kind.lease_owner.is_not(None), kind.lease_expires_at >= func.clock_timestamp())


def last_served_at(kind: type[Leased], project_id: Any) -> ScalarSelect[Any]:
    """When a row of the project was last taken, for a query that compares projects."""
    other = aliased(kind)
    return (
        select(func.max(other.claimed_at)).where(other.project_id == project_id).scalar_subquery()
    )


def _claim(row: R) -> Claim[R]:
    assert row.lease_expires_at is not None
    return Claim(row, row.lease_token, row.lease_expires_at - timedelta(seconds=row.LEASE_S))


def _lease_end(kind: type[Leased]) -> Any:
    return func.clock_timestamp() + timedelta(seconds=kind.LEASE_S)
