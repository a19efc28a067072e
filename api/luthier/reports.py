"""/v1/luthier/fine_tuning/jobs/{id}/report: what the job's tuning did, as JSON and as a page. The errands process makes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.blobs import delete_blobs
from api.idempotency import CreatesOnce
from api.report_page import page
from api.requests import bodies
from api.ringing import ring
from api.wiring import Wired, Wiring
from foundation.errors import InvalidRequest, ReportNotFound
from storage import queue
from storage.jobs import jobs
from storage.jobs.jobs import JobRow
from storage.reports import reports
from storage.reports.reports import ReportRow

router = APIRouter(prefix="/v1/luthier/fine_tuning/jobs", tags=["luthier"], route_class=CreatesOnce)

Json = dict[str, Any]


class ReportVerdict(BaseModel):
    code: str
    sentence: str


class JobReport(BaseModel):
    """The sections are what they are: each that was skipped says why, as `skipped`."""

    model_config = ConfigDict(extra="allow")
    object: Literal["fine_tuning.job.report"] = "fine_tuning.job.report"
    schema_version: int
    id: str
    fine_tuning_job_id: str
    verdict: ReportVerdict


class ReportInProgress(BaseModel):
    object: Literal["fine_tuning.job.report"] = "fine_tuning.job.report"
    status: Literal["in_progress"] = "in_progress"
    fine_tuning_job_id: str
    job_status: str
    section: str | None
    """That is being made; null while it waits for its turn or for the job's end."""
    num_answers: int
    """That models have given so far."""


class ReportDeleted(BaseModel):
    object: Literal["fine_tuning.job.report"] = "fine_tuning.job.report"
    fine_tuning_job_id: str
    deleted: Literal[True] = True


class MakeReport(BaseModel):
    depth: Literal["auto", "full"] = "auto"


_REPLIES: dict[int | str, Json] = {
    200: {"model": JobReport},
    202: {"model": ReportInProgress, "description": "It is being made"},
}


@router.get("/{fine_tuning_job_id}/report", responses=_REPLIES, response_class=Response)
async def retrieve_report(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> Response:
    found = await wiring.database.run(_find, caller.project_id, fine_tuning_job_id)
    if isinstance(found, ReportInProgress):
        return JSONResponse(found.model_dump(), 202)
    return Response(await _content(wiring, found), media_type="application/json")


@router.get(
    "/{fine_tuning_job_id}/report.html",
    # Not HTMLResponse, as which the errors would be documented too.
    response_class=Response,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}},
        202: {"model": ReportInProgress, "description": "It is being made"},
    },
)
async def retrieve_report_page(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> Response:
    """One file that opens anywhere and fetches nothing."""
    found = await wiring.database.run(_find, caller.project_id, fine_tuning_job_id)
    if isinstance(found, ReportInProgress):
        return JSONResponse(found.model_dump(), 202)
    content = await _content(wiring, found)
    html = await run_sync(lambda: page.html(page.read(content)))
    return HTMLResponse(html, headers={"content-security-policy": page.POLICY})


@router.post("/{fine_tuning_job_id}/report", openapi_extra=bodies.document(MakeReport))
async def make_report(
    fine_tuning_job_id: str,
    body: Annotated[MakeReport, Depends(bodies.json_body(MakeReport))],
    caller: ProjectCaller,
    wiring: Wired,
) -> ReportInProgress:
    """Has the report made, or made anew; one that is being made goes on."""
    row, job = await wiring.database.run(_make, caller.project_id, fine_tuning_job_id, body.depth)
    await ring(queue.run_errand, queue.RUN_REPORT, row.id)
    return _in_progress(job, row)


@router.delete("/{fine_tuning_job_id}/report")
async def delete_report(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> ReportDeleted:
    """With the rows and answers that it tells of: it outlives the files that they are from."""
    keys = await wiring.database.run(_remove, caller.project_id, fine_tuning_job_id)
    await delete_blobs(wiring.blobs, keys)
    return ReportDeleted(fine_tuning_job_id=fine_tuning_job_id)


def _remove(session: Session, project_id: str, job_id: str) -> list[str]:
    """Raises NotFound."""
    jobs.get(session, project_id, job_id)
    keys = reports.remove(session, project_id, job_id)
    if keys is None:
        raise ReportNotFound(job_id)
    return keys


def _find(session: Session, project_id: str, job_id: str) -> ReportRow | ReportInProgress:
    """Raises InvalidRequest for a job that has none, and why."""
    job = jobs.get(session, project_id, job_id)
    row = reports.find(session, project_id, job_id)
    if row is not None and row.status == "succeeded":
        return row
    if row is not None and row.status == "failed":
        error = row.error or {}
        raise InvalidRequest(
            f"There is no report on {job.id}: {error.get('message')}", code=error.get("code")
        )
    if row is None:
        _check_may_have(job)
        if job.status == "succeeded":
            raise ReportNotFound(job.id)
    return _in_progress(job, row)


def _make(
    session: Session, project_id: str, job_id: str, depth: reports.Depth
) -> tuple[ReportRow, JobRow]:
    job = jobs.locked(session, project_id, job_id)
    row = reports.find(session, project_id, job_id)
    if row is not None:
        return reports.again(session, row, depth), job
    _check_may_have(job)
    if job.status != "succeeded":
        raise InvalidRequest(
            f"The job {job.id} has the status '{job.status}'; its report is made once it has succeeded.",
            param="fine_tune_id",
        )
    asked = (job.hyperparameters.get("luthier") or {}).get("report")
    known = (
        {name: v for name, v in asked.items() if name != "depth"} if isinstance(asked, dict) else {}
    )
    return (
        reports.create(session, project_id=project_id, job_id=job_id, depth=depth, asked=known),
        job,
    )


def _check_may_have(job: JobRow) -> None:
    """Raises InvalidRequest for a job that has made no model, and will make none."""
    if job.status not in ("failed", "cancelled"):
        return
    why = f"it failed: {job.error['message']}" if job.error else f"it was {job.status}"
    raise InvalidRequest(
        f"There is no report on {job.id}, for there is no model: {why}",
        param="fine_tune_id",
        code="no_report",
    )


def _in_progress(job: JobRow, row: ReportRow | None) -> ReportInProgress:
    return ReportInProgress(
        fine_tuning_job_id=job.id,
        job_status=job.status,
        section=row and row.section,
        num_answers=row.num_answers if row else 0,
    )


async def _content(wiring: Wiring, row: ReportRow) -> bytes:
    key, size_bytes, sha256 = row.blob_key or "", row.size_bytes or 0, row.sha256 or ""
    return await run_sync(
        lambda: b"".join(wiring.blobs.read(key, size_bytes=size_bytes, sha256=sha256))
    )
