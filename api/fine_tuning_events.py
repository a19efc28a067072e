"""/v1/fine_tuning/jobs/{id}/events: what happened, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from storage import events, jobs, pages
from storage.events import EventRow

from .auth import ProjectCaller
from .pages import After, Page, limit
from .wiring import Wired

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


class FineTuningJobEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def from_row(cls, row: EventRow) -> FineTuningJobEvent:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            level=row.level,
            message=row.message,
            type=row.type,
            data=row.data,
        )


@router.get("/{fine_tuning_job_id}/events")
async def list_events(
    fine_tuning_job_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 20,
) -> Page[FineTuningJobEvent]:
    page = await wiring.database.run(_page, caller.project_id, fine_tuning_job_id, after, limit)
    return Page(
        data=[FineTuningJobEvent.from_row(row) for row in page.rows], has_more=page.has_more
    )


def _page(
    session: Session, project_id: str, job_id: str, after: str | None, limit: int
) -> pages.Page[EventRow]:
    jobs.get(session, project_id, job_id)
    return events.page(session, job_id, after=after, limit=limit)
