"""/v1/luthier/fine_tuning/jobs/{id}/series: a job's curves, without reading all of its events."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.wiring import Wired
from storage.jobs import jobs, series
from storage.jobs.series import Series

router = APIRouter(prefix="/v1/luthier/fine_tuning/jobs", tags=["luthier"])


class Curve(BaseModel):
    """The points (steps[i], values[i]), in the order of the steps."""

    steps: list[int]
    values: list[float]


class JobSeries(BaseModel):
    object: Literal["fine_tuning.job.series"] = "fine_tuning.job.series"
    fine_tuning_job_id: str
    total_steps: int | None
    is_thinned: bool
    """Whether the steps are cut into stretches, of each of which the lowest and the highest point are told."""
    last_event_id: str | None
    """To follow the job's events behind it: `events?stream=true&after=...`."""
    metrics: dict[str, Curve]
    """By the name that the value has in events."""


@router.get("/{fine_tuning_job_id}/series")
async def retrieve_series(
    fine_tuning_job_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    max_points: Annotated[int, Query(ge=10, le=5000)] = 1000,
) -> JobSeries:
    found = await wiring.database.run(_read, caller.project_id, fine_tuning_job_id, max_points)
    return JobSeries(
        fine_tuning_job_id=fine_tuning_job_id,
        total_steps=found.total_steps,
        is_thinned=found.is_thinned,
        last_event_id=found.last_event_id,
        metrics={
            name: Curve(steps=[step for step, _ in points], values=[value for _, value in points])
            for name, points in found.points.items()
        },
    )


def _read(session: Session, project_id: str, job_id: str, max_points: int) -> Series:
    jobs.get(session, project_id, job_id)
    return series.read(session, job_id, max_points=max_points)
