"""Pages of many jobs' events in one query, newest first: what a crowd of pollers asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Integer,
    Row,
    String,
    bindparam,
    case,
    column,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from storage.pages import RowPage

from .events import EventRow
from .jobs import JobRow


class Question(NamedTuple):
    """Which page somebody wants. `after` is an event's id; one that the job lacks gives an empty page."""

    project_id: str
    job_id: str
    after: str | None
    limit: int


def find(session: Session, questions: Sequence[Question]) -> dict[Question, RowPage[Row[Any]]]:
    """The pages, as rows of events' columns; a job that the project has not is left out."""
    found: dict[Question, list[Row[Any]]] = {}
    names = ("project_ids", "job_ids", "afters", "limits")
    for row in session.execute(_FIND, dict(zip(names, zip(*questions, strict=True), strict=True))):
        rows = found.setdefault(questions[row.number - 1], [])
        if row.seq is not None:
            rows.append(row)
    return {
        question: RowPage(rows[: question.limit], has_more=len(rows) > question.limit)
        for question, rows in found.items()
    }


def _query() -> Any:
    asked = (
        func.unnest(
            bindparam("project_ids", type_=ARRAY(String)),
            bindparam("job_ids", type_=ARRAY(String)),
            bindparam("afters", type_=ARRAY(String)),
            bindparam("limits", type_=ARRAY(Integer)),
        )
        .table_valued(
            column("project_id", String),
            column("job_id", String),
            column("after", String),
            column("limit", Integer),
            with_ordinality="number",
            name="asked",
        )
        .render_derived()
    )
    cursor = aliased(EventRow)
    last_seq = (
        select(cursor.seq)
        .where(cursor.id == asked.c.after, cursor.job_id == asked.c.job_id)
        .correlate(asked)
        .scalar_subquery()
    )
    # One more than the page holds, to tell whether there are more.
    num_rows = case((asked.c.limit > 0, asked.c.limit + 1), else_=0)
    event = (
        select(EventRow)
        .where(
            EventRow.job_id == asked.c.job_id,
            or_(asked.c.after.is_(None), EventRow.seq < last_seq),
        )
        .order_by(EventRow.seq.desc())
        .limit(num_rows)
        .lateral("event")
    )
    columns = [event.c[name] for name in ("id", "created_at", "level", "type", "message", "data")]
    return (
        select(asked.c.number.cast(BigInteger).label("number"), event.c.seq, *columns)
        .select_from(asked)
        .join(
            JobRow,
            (JobRow.id == asked.c.job_id)
            & (JobRow.project_id == asked.c.project_id)
            & JobRow.legacy.is_(None),
        )
        .outerjoin(event, true())
        .order_by(asked.c.number, event.c.seq.desc())
    )


# Put together once: building it costs more than running it.
_FIND = _query()
