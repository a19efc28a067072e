"""Pages of rows: ordered by time, then id, so that a cursor never skips or repeats a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


@dataclass(frozen=True)
class RowPage(Generic[Row]):
    rows: list[Row]
    has_more: bool


def read(
    session: Session,
    query: Select[Row],
    *order: InstrumentedAttribute[Any],
    after: Row | None,
    limit: int,
    descending: bool = True,
    is_after_unknown: bool = False,
) -> RowPage[Row]:
    """The rows behind `after` in the order of the columns `order`.

    A cursor that names no row (`is_after_unknown` without `after`) gives an empty page, as does
    `limit=0`: a client that pages past a deleted row ends instead of starting over.
    """
    if limit <= 0 or (is_after_unknown and after is None):
        return RowPage([], has_more=False)
    if after is not None:
        position = tuple_(*[getattr(after, column.key) for column in order])
        columns = tuple_(*order)
        query = query.where(columns < position if descending else columns > position)
    query = query.order_by(*[c.desc() if descending else c.asc() for c in order])
    rows = list(session.scalars(query.limit(limit + 1)))
    return RowPage(rows[:limit], has_more=len(rows) > limit)
