"""/v1/luthier/jobs/{id}/reproduce trains again what a job trained; /result says to the byte what it made, and where."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.fine_tuning.jobs import FineTuningJob, check_files, new_row, starting_point
from api.idempotency import CreatesOnce
from api.ringing import ring
from api.wiring import Wired
from foundation.errors import InvalidRequest
from foundation.settings import Settings
from storage import queue
from storage.jobs import events, jobs
from storage.jobs.jobs import JobRow
from storage.models import models
from storage.models.base_models import Catalogue
from storage.organization.api_keys import Caller

router = APIRouter(prefix="/v1/luthier/jobs", tags=["luthier"], route_class=CreatesOnce)

REPRODUCES = "reproduces"
"""The key in a job's metadata that names the job it is to be like."""
_ASKED = ("training_file", "validation_file", "method", "hyperparameters", "tuning", "suffix")
_PINNED = ("config", "reasons")
"""Of what was decided for a job: the rest is of one run of it."""

_NOT_TOLD = ("base_path", "shared")
"""Of the config: where a base lies, and what might have been. Whether it was, the environment says."""
SHARED = "alert:shared"
"""The key of the event that tells of steps that were computed with other jobs'."""


class TensorHash(BaseModel):
    dtype: str
    shape: list[int]
    sha256: str


class JobResult(BaseModel):
    object: Literal["fine_tuning.job.result"] = "fine_tuning.job.result"
    fine_tuning_job_id: str
    model: str
    kind: str
    spec: dict[str, Any]
    tensors: dict[str, TensorHash]
    data_sha256: dict[str, str]
    config: dict[str, Any]
    """With nothing "auto" left."""
    environment: dict[str, str]
    """Where it was trained."""


@router.post("/{fine_tuning_job_id}/reproduce")
async def reproduce_job(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuningJob:
    """A new job with the same files, seed and settings, where "auto" means what it meant then."""
    row = await wiring.database.run(
        _reproduce, caller, fine_tuning_job_id, wiring.settings, wiring.catalogue()
    )
    await ring(queue.ring, row.id)
    return FineTuningJob.from_row(row)


@router.get("/{fine_tuning_job_id}/result")
async def retrieve_job_result(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> JobResult:
    """Of a job that has succeeded, while its model is there."""
    return await wiring.database.run(_result, caller.project_id, fine_tuning_job_id)


def _reproduce(
    session: Session, caller: Caller, job_id: str, settings: Settings, catalogue: Catalogue
) -> JobRow:
    row = jobs.get(session, caller.project_id, job_id)
    if row.status != "succeeded" or row.train_config is None:
        raise InvalidRequest(
            f"The job {row.id} has the status '{row.status}'; one that has succeeded can be reproduced.",
            param="fine_tune_id",
        )
    start = starting_point(session, caller, row.model, settings, catalogue)
    if start.init_artifact_id != row.init_artifact_id:
        raise InvalidRequest(
            f"The model {row.model} is not the one that {row.id} went on from.", param="model"
        )
    found = check_files(session, caller, row.training_file, row.validation_file)
    if row.data_sha256 is not None and found != row.data_sha256:
        raise InvalidRequest(
            f"The files of {row.id} hold something else than they did then.", param="training_file"
        )
    again = new_row(
        caller,
        "ftjob-",
        start,
        **{name: getattr(row, name) for name in _ASKED},
        seed=row.seed,
        data_sha256=found,
        metadata_={REPRODUCES: row.id},
        integrations=None,
        train_config=_pinned(row.train_config),
    )
    return jobs.create(session, again)


def _pinned(decided: dict[str, Any]) -> dict[str, Any]:
    """What was decided then, but that no step is computed together with another job's, which would change last digits."""
    pinned = {name: decided[name] for name in _PINNED}
    return {**pinned, "config": {**pinned["config"], "shared": "never"}}


def _result(session: Session, project_id: str, job_id: str) -> JobResult:
    row = jobs.get(session, project_id, job_id)
    found = models.find(session, project_id, row.fine_tuned_model or "")
    if found is None or found[1].tensors is None:
        why = "its model is gone" if row.fine_tuned_model else f"its status is '{row.status}'"
        raise InvalidRequest(
            f"What the job {row.id} made is not known to the byte: {why}.", param="fine_tune_id"
        )
    model, artifact = found
    decided = row.train_config or {}
    config = {name: v for name, v in decided.get("config", {}).items() if name not in _NOT_TOLD}
    environment = dict(decided.get("environment", {}))
    if events.find(session, row.id, SHARED) is not None:
        environment["steps"] = "some of them computed with other jobs'"
    return JobResult(
        fine_tuning_job_id=row.id,
        model=model.name,
        kind=artifact.kind,
        spec=artifact.spec,
        tensors=artifact.tensors,
        data_sha256=row.data_sha256 or {},
        config=config,
        environment=environment,
    )
