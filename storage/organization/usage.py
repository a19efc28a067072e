"""What inference used: tokens and requests, one row a minute, project, key, model and kind of request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import BigInteger, Column, ForeignKey, Table, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.database import Base, Int64, Timestamp

MINUTE_S = 60

Dimension = Literal["project_id", "api_key_id", "model", "is_batch"]


class UsageRow(Base):
    __tablename__ = "usage"

    minute: Mapped[Timestamp] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    api_key_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    is_batch: Mapped[bool] = mapped_column(primary_key=True)
    input_tokens: Mapped[Int64]
    """Those at hand from an earlier request included."""
    cached_tokens: Mapped[Int64]
    output_tokens: Mapped[Int64]
    num_requests: Mapped[Int64]


@dataclass(frozen=True, order=True)
class UsageKey:
    """Whom a use is counted for."""

    minute_s: int
    """When it began, in seconds since 1970."""
    project_id: str
    api_key_id: str
    model: str
    is_batch: bool


@dataclass(frozen=True)
class Used:
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    num_requests: int = 0

    def __add__(self, other: Used) -> Used:
        return Used(
            self.input_tokens + other.input_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
            self.num_requests + other.num_requests,
        )


@dataclass(frozen=True)
class Total:
    """What one group used in one bucket."""

    bucket_s: int
    group: Mapping[Dimension, Any]
    used: Used


_SUMMED = ("input_tokens", "cached_tokens", "output_tokens", "num_requests")


def add(session: Session, used: Mapping[UsageKey, Used]) -> None:
    """Add to what the rows hold already."""
    if not used:
        return
    statement = insert(UsageRow).values(
        [
            {
                "minute": datetime.fromtimestamp(key.minute_s, UTC),
                "project_id": key.project_id,
                "api_key_id": key.api_key_id,
                "model": key.model,
                "is_batch": key.is_batch,
                **{name: getattr(value, name) for name in _SUMMED},
            }
            # In one order everywhere, or two processes could wait for each other's rows.
            for key, value in sorted(used.items())
        ]
    )
    table: Table = UsageRow.__table__  # type: ignore[assignment]
    session.execute(
        statement.on_conflict_do_update(
            index_elements=list(table.primary_key.columns),
            set_={name: table.c[name] + statement.excluded[name] for name in _SUMMED},
        )
    )


def first_minute(session: Session) -> int | None:
    """When anything was used for the first time, in seconds since 1970."""
    first = session.scalar(select(func.min(UsageRow.minute)))
    return None if first is None else int(first.timestamp())


def totals(
    session: Session,
    *,
    start_s: int,
    end_s: int,
    width_s: int,
    group_by: Sequence[Dimension] = (),
    where: Mapping[Dimension, Collection[Any]] | None = None,
) -> list[Total]:
    """Sums from `start_s` on and before `end_s`, by bucket and group, in order of time.

    Buckets begin at multiples of `width_s`. `where` gives the values that a dimension may have.
    """
    table: Table = UsageRow.__table__  # type: ignore[assignment]
    since_1970_s = cast(func.extract("epoch", table.c.minute), BigInteger)
    bucket = (since_1970_s - since_1970_s % width_s).label("bucket")
    groups: list[Column[Any]] = [table.c[name] for name in group_by]
    query = (
        select(bucket, *groups, *(cast(func.sum(table.c[n]), BigInteger) for n in _SUMMED))
        .where(table.c.minute >= datetime.fromtimestamp(start_s, UTC))
        .where(table.c.minute < datetime.fromtimestamp(end_s, UTC))
        .group_by(bucket, *groups)
        .order_by(bucket, *groups)
    )
    for name, values in (where or {}).items():
        query = query.where(table.c[name].in_(list(values)))
    num_groups = len(groups)
    return [
        Total(
            row[0],
            dict(zip(group_by, row[1 : 1 + num_groups], strict=True)),
            Used(*row[1 + num_groups :]),
        )
        for row in session.execute(query)
    ]
