"""What a job has measured, by the name of each value, as points over its steps: what a curve is drawn from.

Of a long job not every step is told. Its steps are cut into stretches, and of each the lowest and the highest point
are kept: a curve drawn from them hides no spike, which a sample would.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from .events import EventRow, last_metrics

Points = dict[str, list[tuple[int, float]]]

_OF_THE_RUN = ("step", "total_steps", "num_tokens")
"""Numbers in a metrics event's data that are no measurements."""

_ALL = """
    SELECT (data->>'step')::bigint AS step, pair.key AS name, (pair.value #>> '{}')::float8 AS value
    FROM events, jsonb_each(data) AS pair
    WHERE job_id = :job_id AND type = 'metrics' AND seq <= :seq AND jsonb_typeof(pair.value) = 'number'
      AND pair.key <> ALL (:others)
"""
_EACH = text(f"SELECT name, step, value FROM ({_ALL}) AS each ORDER BY name, step")
_ENDS_OF_STRETCHES = text(f"""
    SELECT name, unnest(ARRAY[(array_agg(step ORDER BY value, step))[1], (array_agg(step ORDER BY value DESC, step))[1]]) AS step,
           unnest(ARRAY[min(value), max(value)]) AS value
    FROM ({_ALL}) AS each
    GROUP BY name, (step - 1) / :steps_per_stretch
    ORDER BY name, step
""")


@dataclass(frozen=True)
class Series:
    points: Points
    last_event_id: str | None
    """Of the newest event of the job: whoever follows its stream behind this one misses nothing and hears nothing twice."""
    total_steps: int | None
    is_thinned: bool


def read(session: Session, job_id: str, *, max_points: int) -> Series:
    """At most `max_points` points of each value. The caller has checked that the job is the project's."""
    last = session.execute(
        select(EventRow.id, EventRow.seq)
        .where(EventRow.job_id == job_id)
        .order_by(EventRow.seq.desc())
        .limit(1)
    ).first()
    if last is None:
        return Series({}, None, None, is_thinned=False)
    is_metrics = (EventRow.job_id == job_id, EventRow.type == "metrics", EventRow.seq <= last.seq)
    newest = last_metrics(session, job_id)
    num_steps = session.scalar(select(func.count()).select_from(EventRow).where(*is_metrics)) or 0
    is_thinned = num_steps > max_points
    bound = {"job_id": job_id, "seq": last.seq, "others": list(_OF_THE_RUN)}
    if is_thinned:
        bound["steps_per_stretch"] = -(
            -2 * int((newest or {}).get("step", num_steps)) // max_points
        )
    points: Points = {}
    for name, step, value in session.execute(_ENDS_OF_STRETCHES if is_thinned else _EACH, bound):
        of_name = points.setdefault(name, [])
        # The lowest and the highest point of a stretch may be the same one.
        if not of_name or of_name[-1] != (step, value):
            of_name.append((step, value))
    return Series(points, last.id, (newest or {}).get("total_steps"), is_thinned)
