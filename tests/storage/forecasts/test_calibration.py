"""Coverage over all projects: what held, what missed, what is not counted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from storage.forecasts import calibration
from storage.forecasts.forecasts import ForecastRow
from storage.ids import new_id
from storage.organization import projects


def test_what_held_and_what_missed_is_counted_by_month_and_kind(
    database: sessionmaker[Session],
) -> None:
    def add(session: Session, project_id: str, **values: Any) -> None:
        row: dict[str, Any] = {
            "id": new_id("forecast-"),
            "project_id": project_id,
            "status": "completed",
            "asked": {},
            "base_model": "tiny-random",
            "method": "supervised",
            "kind": "lora",
            "seconds_p10": 5.0,
            "seconds_p50": 10.0,
            "seconds_p90": 20.0,
            "outcome": "succeeded",
            "is_counted": True,
            "ended_at": datetime(2026, 11, 30, 23, 59, tzinfo=UTC),
        }
        session.add(ForecastRow(**{**row, **values}))

    with database.begin() as session:
        for name in ("one", "another"):
            project_id = projects.create(session, name).id
            for seconds in (4.0, 5.0, 20.0, 30.0):
                add(session, project_id, actual_seconds=seconds)
        add(session, project_id, actual_seconds=900.0, is_counted=False)
        add(session, project_id, outcome="failed", is_counted=False)
        add(session, project_id, outcome="cancelled", is_counted=False)
        add(session, project_id, outcome=None, ended_at=None, is_counted=False)
        late = datetime(2026, 12, 1, tzinfo=UTC)
        add(session, project_id, kind="full", actual_seconds=10.0, ended_at=late)
    with database() as session:
        later, found = calibration.counts(session)
    assert (later.month, later.kind, later.num_jobs, later.num_inside) == ("2026-12", "full", 1, 1)
    assert later.interval_score == pytest.approx(1.5)
    assert (found.month, found.method, found.kind) == ("2026-11", "supervised", "lora")
    counts = (found.num_jobs, found.num_inside, found.num_below, found.num_above)
    assert counts == (8, 4, 2, 2)
    assert found.median_ratio == pytest.approx(1.25)
    # The width, and ten times what is missed, beside what it took.
    scores = [(15 + 10 * 1) / 4, 15 / 5, 15 / 20, (15 + 10 * 10) / 30]
    assert found.interval_score == pytest.approx(sum(scores) / 4)
    assert (found.num_interrupted, found.num_failed, found.num_cancelled) == (1, 1, 1)
