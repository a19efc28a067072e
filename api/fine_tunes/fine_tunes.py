"""/v1/fine-tunes, the API of before there was /v1/fine_tuning: create, list, retrieve, cancel, events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from api.auth import ProjectCaller
from api.files.files import FileObject
from api.fine_tuning import job_stream
from api.fine_tuning import jobs as fine_tuning_jobs
from api.fine_tuning.events import Stream
from api.fine_tuning.job_stream import Mark, Place
from api.fine_tuning.jobs import StartingPoint
from api.fine_tuning.stream_seats import SeatedStream
from api.gateway.event_stream import MEDIA_TYPE
from api.idempotency import CreatesOnce
from api.requests import bodies
from api.ringing import ring
from api.wiring import Wired, Wiring
from foundation.errors import InvalidRequest, ModelNotServed
from foundation.settings import Settings
from storage import queue
from storage.files import files
from storage.files.files import FileRow
from storage.jobs import fine_tunes
from storage.jobs.jobs import JobRow
from storage.models.artifacts import HEADED_KINDS
from storage.models.base_models import Catalogue
from storage.organization.api_keys import Caller

from . import events as fine_tune_events
from .events import FineTuneEvent
from .request import DEFAULT_MODEL, CreateFineTune

router = APIRouter(prefix="/v1/fine-tunes", tags=["fine-tunes (legacy)"], route_class=CreatesOnce)

Status = Literal["pending", "running", "succeeded", "failed", "cancelled"]
_STATUSES: dict[str, Status] = {
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


class FineTuneFile(BaseModel):
    """A file object; of a file that is gone only the id is left."""

    id: str
    object: Literal["file"] = "file"
    bytes: int = 0
    created_at: int = 0
    filename: str = ""
    purpose: str = "fine-tune"
    status: Literal["uploaded", "processed", "error", "deleted"] = "deleted"
    status_details: str | None = None


class Hyperparams(BaseModel):
    """Null until the server has chosen a value."""

    batch_size: int | None
    learning_rate_multiplier: float | None
    n_epochs: int
    prompt_loss_weight: float


class FineTune(BaseModel):
    id: str
    object: Literal["fine-tune"] = "fine-tune"
    created_at: int
    updated_at: int
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    hyperparams: Hyperparams
    training_files: list[FineTuneFile]
    validation_files: list[FineTuneFile]
    result_files: list[FineTuneFile]


class FineTuneWithEvents(FineTune):
    events: list[FineTuneEvent]


class FineTuneList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FineTune]


class FineTuneEventList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FineTuneEvent]


@router.post("", openapi_extra=bodies.document(CreateFineTune))
async def create_fine_tune(
    body: Annotated[CreateFineTune, Depends(bodies.json_body(CreateFineTune))],
    caller: ProjectCaller,
    wiring: Wired,
) -> FineTuneWithEvents:
    fine_tune = await wiring.database.run(
        _create, caller, body, wiring.settings, wiring.catalogue()
    )
    await ring(queue.ring, fine_tune.id)
    return fine_tune


@router.get("")
async def list_fine_tunes(caller: ProjectCaller, wiring: Wired) -> FineTuneList:
    """All of them, oldest first, without their events."""
    return FineTuneList(data=await wiring.database.run(_all, caller.project_id))


@router.get("/{fine_tune_id}")
async def retrieve_fine_tune(
    fine_tune_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuneWithEvents:
    return await wiring.database.run(_retrieve, caller.project_id, fine_tune_id)


@router.post("/{fine_tune_id}/cancel")
async def cancel_fine_tune(
    fine_tune_id: str, caller: ProjectCaller, wiring: Wired
) -> FineTuneWithEvents:
    return await wiring.database.run(_cancel, caller.project_id, fine_tune_id)


@router.get(
    "/{fine_tune_id}/events",
    response_model=FineTuneEventList,
    responses={
        200: {
            "description": (
                "All events, oldest first; or, with `stream=true`, each as `data` of a server-sent "
                "event, as they come, until the job ends and `data: [DONE]` says so."
            ),
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        }
    },
)
async def list_fine_tune_events(
    fine_tune_id: str, caller: ProjectCaller, wiring: Wired, stream: Stream = False
) -> FineTuneEventList | Response:
    if not stream:
        fine_tune = await wiring.database.run(_retrieve, caller.project_id, fine_tune_id)
        return FineTuneEventList(data=fine_tune.events)
    place, seat = await job_stream.begin(wiring, caller, _place, caller.project_id, fine_tune_id)
    return SeatedStream(_chunks(wiring, caller.project_id, place), seat)


def _create(
    session: Session,
    caller: Caller,
    body: CreateFineTune,
    settings: Settings,
    catalogue: Catalogue,
) -> FineTuneWithEvents:
    body.check()
    asked = body.model or DEFAULT_MODEL
    start = _starting_point(session, caller, asked, settings, catalogue)
    if start.kind in HEADED_KINDS:
        raise InvalidRequest(
            f"{asked} is a classifier with a head, which /v1/fine-tunes knows nothing of; go on from it by "
            "POST /v1/fine_tuning/jobs.",
            param="model",
        )
    data_sha256 = fine_tuning_jobs.check_files(
        session, caller, body.training_file, body.validation_file
    )
    row = fine_tuning_jobs.new_row(
        caller,
        "ft-",
        start,
        training_file=body.training_file,
        validation_file=body.validation_file,
        method=body.method,
        data_sha256=data_sha256,
        hyperparameters=body.hyperparameters(),
        suffix=body.suffix,
        seed=None,
        legacy={
            "model": asked,
            # Of a model that was tuned before only the base's name goes on.
            "name": start.base_model if asked.startswith("ft:") else asked.partition(":")[0],
        },
    )
    fine_tunes.create(session, row, body.warnings())
    return _with_events(session, row)


def _starting_point(
    session: Session, caller: Caller, asked: str, settings: Settings, catalogue: Catalogue
) -> StartingPoint:
    try:
        return fine_tuning_jobs.starting_point(session, caller, asked, settings, catalogue)
    except ModelNotServed:
        raise
    except InvalidRequest as error:
        available = (base.id for base in catalogue.all() if settings.is_available(base.id))
        known = ", ".join(available)
        raise InvalidRequest(
            f"{error.message} A name of old stands for one of this server's bases ({known}) once its "
            f"operator says which: luthier serve --alias {asked.partition(':')[0]}=BASE",
            param="model",
            code=error.code,
        ) from None


def _retrieve(session: Session, project_id: str, job_id: str) -> FineTuneWithEvents:
    return _with_events(session, fine_tunes.get(session, project_id, job_id))


def _cancel(session: Session, project_id: str, job_id: str) -> FineTuneWithEvents:
    return _with_events(session, fine_tunes.cancel(session, project_id, job_id))


def _all(session: Session, project_id: str) -> list[FineTune]:
    rows = fine_tunes.all(session, project_id)
    updated_at = fine_tunes.updated_at(session, [row.id for row in rows])
    known = _files(session, project_id, rows)
    return [FineTune(**_fields(row, known, updated_at[row.id])) for row in rows]


def _with_events(session: Session, row: JobRow) -> FineTuneWithEvents:
    rows = fine_tunes.told(session, row)
    known = _files(session, row.project_id, [row])
    events = fine_tune_events.tell(row, rows)
    return FineTuneWithEvents(**_fields(row, known, rows[-1].created_at), events=events)


def _files(session: Session, project_id: str, rows: Sequence[JobRow]) -> Mapping[str, FileRow]:
    ids = {
        file_id
        for row in rows
        for file_id in (row.training_file, row.validation_file, *row.result_files)
        if file_id is not None
    }
    return files.find_all(session, project_id, sorted(ids))


def _fields(row: JobRow, known: Mapping[str, FileRow], updated_at: datetime) -> dict[str, Any]:
    def objects(*ids: str | None) -> list[FineTuneFile]:
        return [_file(known, file_id) for file_id in ids if file_id is not None]

    legacy = row.legacy or {}
    chosen = {
        name: None if row.hyperparameters[name] == "auto" else row.hyperparameters[name]
        for name in ("batch_size", "learning_rate_multiplier", "n_epochs")
    }
    return {
        "id": row.id,
        "created_at": int(row.created_at.timestamp()),
        "updated_at": int(updated_at.timestamp()),
        "model": legacy.get("model", row.model),
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": row.organization_id,
        "status": _STATUSES.get(row.status, "pending"),
        # The loss is over the completions alone, whatever was asked for; an event says so.
        "hyperparams": Hyperparams(**chosen, prompt_loss_weight=0.0),
        "training_files": objects(row.training_file),
        "validation_files": objects(row.validation_file),
        "result_files": objects(*row.result_files),
    }


def _file(known: Mapping[str, FileRow], file_id: str) -> FineTuneFile:
    row = known.get(file_id)
    if row is None:
        return FineTuneFile(id=file_id)
    return FineTuneFile(**FileObject.from_row(row).model_dump(exclude={"expires_at"}))


def _place(session: Session, project_id: str, job_id: str) -> Place:
    return job_stream.place(session, fine_tunes.get(session, project_id, job_id), None)


async def _chunks(wiring: Wiring, project_id: str, place: Place) -> AsyncIterator[bytes]:
    job = await wiring.database.read(fine_tunes.get, project_id, place.job_id)
    async with aclosing(job_stream.follow(wiring, place)) as followed:
        async for it in followed:
            if isinstance(it, Mark):
                yield job_stream.DONE if it is Mark.END else job_stream.HEARTBEAT
                continue
            if any(row.key == "model" for row in it):
                # Now the row says what the model and the result file are called.
                job = await wiring.database.read(fine_tunes.get, project_id, place.job_id)
            told = fine_tune_events.tell(job, it)
            for chunk in job_stream.joined(_sse(event) for event in told):
                yield chunk


def _sse(event: FineTuneEvent) -> bytes:
    return b"data: " + event.model_dump_json().encode() + b"\n\n"
