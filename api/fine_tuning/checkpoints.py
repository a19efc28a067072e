"""/v1/fine_tuning/jobs/{id}/checkpoints: usable models from the ends of epochs, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.pages import After, PageWithIds, ends, limit
from api.wiring import Wired
from storage import pages
from storage.jobs import checkpoints, jobs
from storage.jobs.checkpoints import CheckpointRow

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


class FineTuningJobCheckpoint(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, Any]
    step_number: int

    @classmethod
    def from_row(cls, row: CheckpointRow) -> FineTuningJobCheckpoint:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            fine_tuned_model_checkpoint=row.model_name,
            fine_tuning_job_id=row.job_id,
            metrics=row.metrics,
            step_number=row.step,
        )


@router.get("/{fine_tuning_job_id}/checkpoints")
async def list_checkpoints(
    fine_tuning_job_id: str,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 10,
) -> PageWithIds[FineTuningJobCheckpoint]:
    page = await wiring.database.run(_page, caller.project_id, fine_tuning_job_id, after, limit)
    data = [FineTuningJobCheckpoint.from_row(row) for row in page.rows]
    return PageWithIds(data=data, has_more=page.has_more, **ends([c.id for c in data]))


def _page(
    session: Session, project_id: str, job_id: str, after: str | None, limit: int
) -> pages.RowPage[CheckpointRow]:
    jobs.get(session, project_id, job_id)
    return checkpoints.page(session, job_id, after=after, limit=limit)
