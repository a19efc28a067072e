"""/v1/luthier/forecasts: what a job would take, and how such forecasts have held.

The body is that of a job's creation. The file is tokenised as the worker would, by the errands; a small one is answered at once. Each job has
one of its own as well, which is in the list; once the job has ended, beside what it took.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.fine_tuning.jobs import JobError, asked_row
from api.fine_tuning.request import CreateFineTuningJob
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, Page, limit
from api.requests import bodies
from api.ringing import ring
from api.wiring import Wired, Wiring
from foundation.settings import Settings
from grading.statistics import wilson
from storage import queue
from storage.forecasts import calibration, forecasts
from storage.forecasts.calibration import NOMINAL, CalibrationCount
from storage.forecasts.forecasts import ForecastRow
from storage.jobs import jobs
from storage.models.base_models import Catalogue
from storage.organization.api_keys import Caller

router = APIRouter(prefix="/v1/luthier/forecasts", tags=["luthier"], route_class=CreatesOnce)

WAIT_S = 6.0
"""For so long the reply waits for its forecast; then it says that it is in progress."""
_FIRST_LOOK_S, _LAST_LOOK_S = 0.2, 0.8

Json = dict[str, Any]


class ForecastOutcome(BaseModel):
    """What the job took."""

    status: str
    """The job's."""
    seconds: float | None
    """From its first step to its model."""
    steps: int | None
    tokens: int | None
    peak_memory_bytes: int | None
    """Of the trainer, with whatever else it held."""
    is_counted: bool
    """Whether calibration goes by it: the job ran through, without a break and with all steps."""


class JobForecast(BaseModel):
    id: str
    object: Literal["luthier.forecast"] = "luthier.forecast"
    created_at: int
    finished_at: int | None
    status: Literal["in_progress", "completed", "failed"]
    error: JobError | None
    """What such a job would fail with."""
    fine_tuning_job_id: str | None
    """Of a job's own."""
    model: str
    training_file: str
    validation_file: str | None
    method: str
    forecast: Json | None
    outcome: ForecastOutcome | None

    @classmethod
    def from_row(cls, row: ForecastRow) -> JobForecast:
        outcome = None
        if row.outcome is not None:
            outcome = ForecastOutcome(
                status=row.outcome,
                seconds=row.actual_seconds,
                steps=row.actual_steps,
                tokens=row.actual_tokens,
                peak_memory_bytes=row.peak_memory_bytes,
                is_counted=row.is_counted,
            )
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            finished_at=seconds(row.finished_at),
            status=row.status,
            error=JobError(**row.error) if row.error else None,
            fine_tuning_job_id=row.job_id,
            model=row.asked["model"],
            training_file=row.asked["training_file"],
            validation_file=row.asked["validation_file"],
            method=row.method,
            forecast=row.result,
            outcome=outcome,
        )


class Coverage(BaseModel):
    """Of the nominal interval, and the bounds within which the true share lies with 95 %."""

    value: float
    low: float
    high: float


class CalibrationGroup(BaseModel):
    month: str
    method: str
    kind: str
    num_jobs: int
    num_inside: int
    num_below: int
    num_above: int
    coverage: Coverage | None
    median_ratio: float | None
    interval_score: float | None
    num_interrupted: int
    num_failed: int
    num_cancelled: int

    @classmethod
    def of(cls, count: CalibrationCount) -> CalibrationGroup:
        return cls(coverage=_coverage(count.num_inside, count.num_jobs), **asdict(count))


class ForecastCalibration(BaseModel):
    """Over all projects."""

    object: Literal["luthier.forecast_calibration"] = "luthier.forecast_calibration"
    nominal: float
    """The share of jobs that their interval, p10 to p90 of the seconds, is to hold."""
    num_jobs: int
    num_inside: int
    coverage: Coverage | None
    data: list[CalibrationGroup]
    """Of each month, method and kind of what trains; the latest month first."""


@router.post("", openapi_extra=bodies.document(CreateFineTuningJob))
async def create_forecast(
    body: Annotated[CreateFineTuningJob, Depends(bodies.json_body(CreateFineTuningJob))],
    caller: ProjectCaller,
    wiring: Wired,
) -> JobForecast:
    row = await wiring.database.run(_create, caller, body, wiring.settings, wiring.catalogue())
    await ring(queue.run_errand, queue.RUN_FORECAST, row.id)
    return JobForecast.from_row(await _awaited(wiring, row))


@router.get("")
async def list_forecasts(
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(100)] = 20,
) -> Page[JobForecast]:
    """Newest first, those of jobs among them."""
    page = await wiring.database.run(forecasts.page, caller.project_id, after=after, limit=limit)
    return Page(data=[JobForecast.from_row(row) for row in page.rows], has_more=page.has_more)


@router.get("/calibration")
async def retrieve_calibration(caller: ProjectCaller, wiring: Wired) -> ForecastCalibration:
    """How forecasts of time have held against what jobs took, misses included."""
    del caller
    found = await wiring.database.read(calibration.counts)
    num_jobs = sum(count.num_jobs for count in found)
    num_inside = sum(count.num_inside for count in found)
    return ForecastCalibration(
        nominal=NOMINAL,
        num_jobs=num_jobs,
        num_inside=num_inside,
        coverage=_coverage(num_inside, num_jobs),
        data=[CalibrationGroup.of(count) for count in found],
    )


@router.get("/{forecast_id}")
async def retrieve_forecast(forecast_id: str, caller: ProjectCaller, wiring: Wired) -> JobForecast:
    row = await wiring.database.read(forecasts.get, caller.project_id, forecast_id)
    return JobForecast.from_row(row)


def _create(
    session: Session,
    caller: Caller,
    body: CreateFineTuningJob,
    settings: Settings,
    catalogue: Catalogue,
) -> ForecastRow:
    asked = jobs.asked(asked_row(session, caller, body, settings, catalogue))
    return forecasts.create(session, project_id=caller.project_id, asked=asked)


async def _awaited(wiring: Wiring, row: ForecastRow) -> ForecastRow:
    """As it stands when it is done, or after a while."""
    loop = asyncio.get_running_loop()
    give_up_at, pause_s = loop.time() + WAIT_S, _FIRST_LOOK_S
    while row.status == "in_progress" and loop.time() < give_up_at:
        await asyncio.sleep(pause_s)
        pause_s = min(1.5 * pause_s, _LAST_LOOK_S)
        row = await wiring.database.read(forecasts.get, row.project_id, row.id)
    return row


def _coverage(num_inside: int, num_jobs: int) -> Coverage | None:
    if not num_jobs:
        return None
    found = wilson(num_inside, num_jobs)
    return Coverage(value=found.value, low=found.low, high=found.high)
