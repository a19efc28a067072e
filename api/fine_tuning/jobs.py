"""/v1/fine_tuning/jobs: create, list, retrieve, cancel, pause, resume."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.idempotency import CreatesOnce
from api.moments import seconds
from api.pages import After, Page, limit
from api.requests import bodies, metadata_filter
from api.ringing import ring
from api.wiring import Wired
from foundation.errors import InvalidRequest, ModelNotServed
from foundation.settings import Settings
from storage import queue
from storage.files import files
from storage.forecasts import hosts
from storage.ids import new_id
from storage.jobs import jobs, pauses
from storage.jobs.jobs import JobRow
from storage.models import aliases, artifacts, models
from storage.models.base_models import Catalogue
from storage.organization.api_keys import Caller

from . import fit
from .request import MAX_SEED, CreateFineTuningJob
from .tuning import AskedTuning, check_continues

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=CreatesOnce)

TRAINING_PURPOSE = "fine-tune"

Json = dict[str, Any]


Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]


class JobError(BaseModel):
    code: str
    message: str
    param: str | None


class JobMethod(BaseModel):
    """Under the name of its type stands what was asked of it."""

    model_config = ConfigDict(extra="allow")
    type: str

    @classmethod
    def from_row(cls, row: JobRow) -> JobMethod:
        asked = {"hyperparameters": row.hyperparameters}
        return cls.model_validate({"type": row.method, row.method: asked})


class FineTuningJob(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: JobError | None
    estimated_finish: int | None
    eval_id: None = None
    fine_tuned_model: str | None
    finished_at: int | None
    forecast: Annotated[Json | None, Field(exclude_if=lambda told: told is None)] = None
    """What it will take; OpenAI's API does not have it. Whole at `/v1/luthier/forecasts/{id}`."""
    hyperparameters: Json
    integrations: list[Json]
    metadata: dict[str, str] | None
    method: JobMethod
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    shared_with_openai: Literal[False] = False
    status: Status
    """As in OpenAI's API, whose clients know no `paused` though its service has that state."""
    trained_tokens: int | None
    training_file: str
    tuning: Annotated[Json | None, Field(exclude_if=lambda asked: asked is None)] = None
    """What OpenAI's API does not have, where the job's creation had it."""
    usage_metrics: None = None
    user_provided_suffix: str | None
    validation_file: str | None

    @classmethod
    def from_row(cls, row: JobRow) -> FineTuningJob:
        return cls(
            id=row.id,
            created_at=int(row.created_at.timestamp()),
            error=JobError(**row.error) if row.error else None,
            estimated_finish=seconds(row.estimated_finish),
            fine_tuned_model=row.fine_tuned_model,
            finished_at=seconds(row.finished_at),
            forecast=row.forecast,
            hyperparameters=row.hyperparameters,
            integrations=row.integrations or [],
            metadata=row.metadata_,
            method=JobMethod.from_row(row),
            model=row.model,
            organization_id=row.organization_id,
            result_files=row.result_files,
            seed=row.seed,
            status=row.status,
            trained_tokens=row.trained_tokens,
            training_file=row.training_file,
            tuning=row.tuning,
            user_provided_suffix=row.suffix,
            validation_file=row.validation_file,
        )


@router.post("", openapi_extra=bodies.document(CreateFineTuningJob))
async def create_job(
    body: Annotated[CreateFineTuningJob, Depends(bodies.json_body(CreateFineTuningJob))],
    caller: ProjectCaller,
    wiring: Wired,
) -> FineTuningJob:
    row = await wiring.database.run(_create, caller, body, wiring.settings, wiring.catalogue())
    await ring(queue.ring, row.id)
    return FineTuningJob.from_row(row)


@router.get(
    "",
    openapi_extra=metadata_filter.parameter(
        "`metadata[key]=value`, or `metadata=null` for jobs that have none."
    ),
)
async def list_jobs(
    request: Request,
    caller: ProjectCaller,
    wiring: Wired,
    after: After = None,
    limit: Annotated[int, limit(1000)] = 20,
    status: Annotated[
        list[Status] | None, Query(description="Jobs in one of these states only.", max_length=7)
    ] = None,
    search: Annotated[
        str, Query(description="Found in the job's id, suffix or models.", max_length=256)
    ] = "",
) -> Page[FineTuningJob]:
    """OpenAI's API selects by metadata alone; `status` and `search` are Luthier's."""
    page = await wiring.database.run(
        jobs.page,
        caller.project_id,
        after=after,
        limit=limit,
        metadata=_metadata_filter(request),
        statuses=status or (),
        search=search,
    )
    return Page(data=[FineTuningJob.from_row(row) for row in page.rows], has_more=page.has_more)


@router.get("/{fine_tuning_job_id}")
async def retrieve_job(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuningJob:
    row = await wiring.database.read(jobs.get, caller.project_id, fine_tuning_job_id)
    return FineTuningJob.from_row(row)


@router.post("/{fine_tuning_job_id}/cancel")
async def cancel_job(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuningJob:
    """The job ends at once; the worker that has it learns so at its next step."""
    row = await wiring.database.run(jobs.cancel, caller.project_id, fine_tuning_job_id)
    return FineTuningJob.from_row(row)


@router.post("/{fine_tuning_job_id}/pause")
async def pause_job(fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired) -> FineTuningJob:
    """Asks for a pause and answers with the job as it is until then.

    The worker makes a checkpoint of the step at hand, which can be used as a model, and lets the job go;
    then its status is `paused`. A job that nobody works on pauses at once.
    """
    row = await wiring.database.run(pauses.pause, caller.project_id, fine_tuning_job_id)
    return FineTuningJob.from_row(row)


@router.post("/{fine_tuning_job_id}/resume")
async def resume_job(
    fine_tuning_job_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuningJob:
    """Training goes on exactly where it stopped. A pause that has not come yet is called off."""
    row = await wiring.database.run(_resume, caller.project_id, fine_tuning_job_id, wiring.settings)
    await ring(queue.ring, row.id)
    return FineTuningJob.from_row(row)


def _create(
    session: Session,
    caller: Caller,
    body: CreateFineTuningJob,
    settings: Settings,
    catalogue: Catalogue,
) -> JobRow:
    row = asked_row(session, caller, body, settings, catalogue)
    base = catalogue.get(row.base_model)
    tuning = row.tuning or {"type": "lora"}
    # How much of a tuned model trains its files say, which are not at hand here.
    if base is not None and (row.tuning or row.init_artifact_id is None):
        fit.check_memory(tuning, base, settings, hosts.seen(session))
    return jobs.create(session, row)


def asked_row(
    session: Session,
    caller: Caller,
    body: CreateFineTuningJob,
    settings: Settings,
    catalogue: Catalogue,
) -> JobRow:
    """A job as it is asked for; it is nowhere yet. Raises InvalidRequest."""
    method = body.method_type()
    tuning = body.tuning.options() if body.tuning else None
    start = starting_point(session, caller, body.model, settings, catalogue, body.tuning)
    fit.check(
        body,
        settings,
        catalogue.get(start.base_model),
        base_model=start.base_model,
        begins_with_base=start.init_artifact_id is None,
        kind=start.kind,
    )
    data_sha256 = check_files(session, caller, body.training_file, body.validation_file)
    integrations = [i.model_dump(exclude_none=True) for i in body.integrations or ()]
    return new_row(
        caller,
        "ftjob-",
        start,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=method,
        hyperparameters=body.merged_hyperparameters(),
        tuning=tuning,
        suffix=body.suffix,
        seed=body.seed,
        metadata_=body.metadata,
        integrations=integrations or None,
        data_sha256=data_sha256,
    )


def _resume(session: Session, project_id: str, job_id: str, settings: Settings) -> JobRow:
    row = pauses.resume(session, project_id, job_id)
    _check_available(row.base_model, settings)
    return row


@dataclass(frozen=True)
class StartingPoint:
    """What a job goes on from: a model's resolved name, its base, and its artifact if it is tuned."""

    model: str
    base_model: str
    init_artifact_id: str | None
    kind: str = "lora"
    """What is tuned of it where the job does not say."""


def starting_point(
    session: Session,
    caller: Caller,
    name: str,
    settings: Settings,
    catalogue: Catalogue,
    tuning: AskedTuning | None = None,
) -> StartingPoint:
    """What `model` asks for, to be tuned like that. Raises InvalidRequest."""
    base = aliases.find_base(session, caller.project_id, name, catalogue)
    if base is not None:
        _check_available(base.id, settings)
        return StartingPoint(base.id, base.id, None)
    found = models.find_to_train(session, caller.project_id, name)
    if found is None or catalogue.get(found[0].base_model) is None:
        raise InvalidRequest(
            f"Model {name} is not available for fine-tuning or does not exist.",
            code="model_not_available",
        )
    model, artifact = found
    if artifact.kind not in artifacts.TRAINABLE_FROM:
        kinds = ", ".join(sorted(artifacts.TRAINABLE_FROM))
        raise InvalidRequest(
            f"Model {name} is of the kind '{artifact.kind}', which training cannot go on from; give its "
            f"base, {model.base_model}, or a model of the kind {kinds}.",
            param="model",
            code="model_not_available",
        )
    if tuning is not None:
        check_continues(tuning, model.name, artifact.kind, artifact.spec)
    _check_available(model.base_model, settings)
    return StartingPoint(model.name, model.base_model, artifact.id, artifact.kind)


def _check_available(base_model: str, settings: Settings) -> None:
    """Raises ModelNotServed rather than have a job end in a model that nobody can call."""
    if not settings.is_available(base_model):
        raise ModelNotServed(
            base_model,
            settings.backends,
            " A model trained on it could not be called; to train for the weights alone, set "
            "LUTHIER_TRAIN_UNSERVED=1.",
        )


def new_row(
    caller: Caller, id_prefix: str, start: StartingPoint, *, seed: int | None, **fields: Any
) -> JobRow:
    """A job of the caller's that begins there; `fields` are what was asked for."""
    return JobRow(
        id=new_id(id_prefix),
        project_id=caller.project_id,
        organization_id=caller.organization_id,
        organization_slug=caller.organization_slug,
        model=start.model,
        base_model=start.base_model,
        init_artifact_id=start.init_artifact_id,
        seed=secrets.randbelow(MAX_SEED + 1) if seed is None else seed,
        **fields,
    )


def check_files(
    session: Session, caller: Caller, training_file: str, validation_file: str | None
) -> dict[str, str]:
    """What they hold, as SHA-256 by the names of these parameters.

    Raises InvalidRequest unless they are the project's, and meant for training.
    """
    found = {}
    params = {"training_file": training_file, "validation_file": validation_file}
    for param, file_id in params.items():
        if file_id is None:
            continue
        file = files.find(session, caller.project_id, file_id)
        if file is None:
            raise InvalidRequest(f"invalid {param}: {file_id}", param=param)
        if file.purpose != TRAINING_PURPOSE:
            raise InvalidRequest(
                f"invalid {param}: {file_id} was uploaded with the purpose '{file.purpose}'; upload "
                f"it with the purpose '{TRAINING_PURPOSE}'",
                param=param,
            )
        found[param] = file.sha256
    return found


def _metadata_filter(request: Request) -> dict[str, str] | Literal["null"] | None:
    if request.query_params.get("metadata") == "null":
        return "null"
    return metadata_filter.pairs(request) or None
