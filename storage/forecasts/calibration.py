"""How well forecasts of time have held, over all projects: no row's data but counts. Misses stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Row, case, func, select
from sqlalchemy.orm import Session

from .forecasts import ForecastRow

NOMINAL = 0.8
MAX_GROUPS = 500
"""The latest months first."""


@dataclass(frozen=True)
class CalibrationCount:
    month: str
    """`2026-11`, of the jobs' ends, in UTC."""
    method: str
    kind: str
    num_jobs: int
    """That ran through, and count."""
    num_inside: int
    """Of them, those that took as long as the nominal interval said."""
    num_below: int
    """Those that were quicker."""
    num_above: int
    median_ratio: float | None
    """Of what they took to what was forecast."""
    interval_score: float | None
    """Mean, beside what each took: the interval's width, and ten times by how much it was missed. Less is better."""
    num_interrupted: int
    """That succeeded, after a break or with less than all steps: not counted."""
    num_failed: int
    num_cancelled: int


def counts(session: Session) -> list[CalibrationCount]:
    """By month of the end, method, and kind of what trains."""
    row = ForecastRow
    taken, low, high = row.actual_seconds, row.seconds_p10, row.seconds_p90
    month = func.to_char(func.timezone("UTC", row.ended_at), "YYYY-MM").label("month")
    kind = func.coalesce(row.kind, "").label("kind")
    is_below, is_above = taken < low, taken > high
    missed = case((is_below, low - taken), (is_above, taken - high), else_=0.0)
    score = (high - low + 2 / (1 - NOMINAL) * missed) / func.greatest(taken, 0.05)
    counted = row.is_counted
    query = (
        select(
            month,
            row.method,
            kind,
            func.count().filter(counted).label("num_jobs"),
            func.count().filter(counted, ~is_below, ~is_above).label("num_inside"),
            func.count().filter(counted, is_below).label("num_below"),
            func.count().filter(counted, is_above).label("num_above"),
            func.percentile_cont(0.5)
            .within_group(case((counted, taken / row.seconds_p50)))
            .label("median_ratio"),
            func.avg(score).filter(counted).label("interval_score"),
            func.count().filter(~counted, row.outcome == "succeeded").label("num_interrupted"),
            func.count().filter(row.outcome == "failed").label("num_failed"),
            func.count().filter(row.outcome == "cancelled").label("num_cancelled"),
        )
        .where(row.outcome.is_not(None))
        .group_by(month, row.method, kind)
        .order_by(month.desc(), row.method, kind)
        .limit(MAX_GROUPS)
    )
    return [_count(found) for found in session.execute(query)]


def _count(found: Row[Sequence[object]]) -> CalibrationCount:
    return CalibrationCount(**found._mapping)
