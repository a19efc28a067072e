"""/v1/luthier/jobs/{id}/probes: what the job's model answers to its probes, before training and after each epoch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.pages import After, Page, limit
from api.wiring import Wired
from storage import pages
from storage.jobs import jobs, probes
from storage.jobs.events import EventRow

router = APIRouter(prefix="/v1/luthier/jobs", tags=["luthier"])


class ProbeAnswer(BaseModel):
    id: str
    """The event's that tells of it."""
    object: Literal["fine_tuning.job.probe"] = "fine_tuning.job.probe"
    created_at: int
    fine_tuning_job_id: str
    step: int
    """0 is before training."""
    probe: int
    """From 1, in the order of the job's probes."""
    model: str | None
    messages: list[dict[str, Any]] | None
    prompt: str | None
    answer: str | None
    """Null where there will be none; then `error` says why."""
    finish_reason: str | None
    error: str | None

    @classmethod
    def from_row(cls, row: EventRow) -> ProbeAnswer:
        data = row.data or {}
        names = ("model", "messages", "prompt", "answer", "finish_reason")
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            fine_tuning_job_id=row.job_id,
            step=data["step"],
            probe=data["probe"],
            error=row.message if "answer" not in data else None,
            **{name: data.get(name) for name in names},
        )


@router.get("/{fine_tuning_job_id}/probes")
async def list_probes(
    fine_tuning_job_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 100,
) -> Page[ProbeAnswer]:
    """Newest first."""
    page = await wiring.database.run(_page, caller.project_id, fine_tuning_job_id, after, limit)
    return Page(data=[ProbeAnswer.from_row(row) for row in page.rows], has_more=page.has_more)


def _page(
    session: Session, project_id: str, job_id: str, after: str | None, limit: int
) -> pages.RowPage[EventRow]:
    jobs.get(session, project_id, job_id)
    return probes.page(session, job_id, after=after, limit=limit)
