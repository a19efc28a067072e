"""From a claimed job to the trainer's orders: local files, a valid data set, and nothing left "auto"."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from dataset.labels import Labels
from dataset.tokenized import Statistics
from dataset.validation import InvalidFile, Role, validate
from foundation.crash_points import crash_point
from foundation.documents import reader_of
from foundation.errors import BlobCorrupt, BlobMissing
from storage.blobs import archive
from storage.files import files
from storage.files.files import FileRow
from storage.forecasts import forecasts, making
from storage.forecasts.hosts import Host
from storage.forecasts.plan import Plan
from storage.ids import new_id
from storage.jobs import events, jobs
from storage.models import artifacts
from storage.models.base_models import BaseModel
from storage.transactions import OUT_OF_REACH
from text.chat_template import ChatTemplate
from training.messages import Start, Trainable
from worker import bases
from worker.endings import JobFailed, Setback
from worker.lease import Lease
from worker.worker import Worker

from . import classes, control, linting, planning, resolve, resume, room, trainables
from .planning import Planned, Reading

READ_BYTES = 1 << 16
"""Between two looks at whether the work may go on: tokenising takes about a second for a megabyte."""
READING_INTERVAL_S = 10.0
"""Between two events on how far a file is read."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Begun:
    """The unpacked tuned model that a job goes on from, and what of the base it changes."""

    folder: Path
    trainable: Trainable


def prepare(worker: Worker, lease: Lease, folder: Path) -> Start:
    """Everything that comes before training; `folder` is empty and gets the local files.

    Raises JobFailed for what is wrong with the job, Setback, LostLease, Paused and Stopped.
    """
    worker.check(lease)
    job = lease.job
    rows = _file_rows(worker, lease)
    if job.train_config is None:
        text = f"Validating training file: {job.training_file}"
        if job.validation_file:
            text += f" and validation file: {job.validation_file}"
        _tell(lease, "validating", text)
    base = _base(worker, lease)
    base_path = worker.bases.path(base, lambda: worker.check(lease))
    # Another attempt goes by what was found and decided then.
    decided = (
        resolve.from_json(job.train_config, base_path=str(base_path)) if job.train_config else None
    )
    begun = _fetch_init_artifact(worker, lease, folder)
    changed = begun.trainable if begun else None
    asked = jobs.asked(job)
    reading = planning.reading(asked, base, changed, decided)
    template = bases.read_template(base, base_path)
    statistics = {
        role: _read(worker, lease, row, role, folder, template, reading)
        for role, row in rows.items()
    }
    crash_point("after_validation")
    local = {role: _rows_path(folder, role) for role in rows}
    if not decided:
        filenames = {role: row.filename for role, row in rows.items()}
        linting.tell(lease, local, filenames, job.method, lambda: worker.check(lease))
        found = planning.planned(asked, reading, statistics, folder, base, base_path, changed)
        _decide(worker, lease, found, reading.labels)
    for path in local.values():
        path.unlink()
    train_config = decided or found.resolved.config
    output = folder / "checkpoints"
    output.mkdir()
    resume_from = resume.fetch(worker.blobs, lease, folder)
    return Start(
        job_id=job.id,
        share=job.project_id,
        config=train_config,
        training_set=str(folder / "training"),
        validation_set=str(folder / "validation") if "validation" in rows else None,
        output_dir=str(output),
        resume_from=str(resume_from) if resume_from else None,
        init_artifact=str(begun.folder) if begun else None,
        init_kind=begun.trainable.kind if begun else None,
        merges_init=begun is not None
        and trainables.merges(begun.trainable, train_config.trainable),
    )


def _file_rows(worker: Worker, lease: Lease) -> dict[Role, FileRow]:
    job = lease.job
    wanted: dict[Role, str | None] = {
        "training": job.training_file,
        "validation": job.validation_file,
    }
    rows: dict[Role, FileRow] = {}
    with worker.sessions() as session:
        for role, file_id in wanted.items():
            if file_id is None:
                continue
            row = files.find(session, job.project_id, file_id)
            if row is None:
                raise JobFailed(
                    f"deleted_{role}_file",
                    f"The job failed because the {role} file was deleted",
                    f"{role}_file",
                )
            rows[role] = row
    return rows


def _read(
    worker: Worker,
    lease: Lease,
    row: FileRow,
    role: Role,
    folder: Path,
    template: ChatTemplate,
    reading: Reading,
) -> Statistics:
    """Validate a file and tokenise it into a folder that is named after its role."""
    local = _rows_path(folder, role)
    # As a whole before it is read: a blob store does not wait for as long as tokenising can take.
    with local.open("wb") as copy:
        for chunk in _chunks(worker, lease, row, role):
            copy.write(chunk)
    try:
        return validate(
            _told_chunks(worker, lease, local, role),
            folder / role,
            template,
            max_seq_len=reading.max_seq_len,
            role=role,
            file_id=row.id,
            method=lease.job.method,
            overlap=reading.overlap(role),
            labels=reading.labels,
            reader=reader_of(row.filename),
        )
    except InvalidFile as error:
        problems = [problem.text for problem in error.problems]
        bad_rows = (problem.text for problem in error.problems if not problem.is_the_bases)
        raise JobFailed(
            error.code, error.message, error.param, problems=problems, bad_row=next(bad_rows, "")
        ) from error


def _rows_path(folder: Path, role: Role) -> Path:
    """Where the file itself lies until it is tokenised."""
    return folder / f"{role}.rows"


def _chunks(worker: Worker, lease: Lease, row: FileRow, role: Role) -> Iterator[bytes]:
    try:
        for chunk in worker.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256):
            worker.check(lease)
            yield chunk
    except (BlobMissing, BlobCorrupt) as error:
        raise _unreadable(row, role) from error


def _told_chunks(worker: Worker, lease: Lease, local: Path, role: Role) -> Iterator[bytes]:
    """The file in pieces; between two of them is where reading ends early, and is told of now and then."""
    total_bytes, told_at_s = local.stat().st_size, time.monotonic()
    with local.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            yield chunk
            worker.check(lease)
            if time.monotonic() - told_at_s >= READING_INTERVAL_S:
                percent = 100 * file.tell() // total_bytes
                text = f"Reading the {role} file: {percent} % of {total_bytes} bytes"
                _tell(lease, f"{role}_file:{percent}", text)
                told_at_s = time.monotonic()


def _unreadable(row: FileRow, role: Role) -> JobFailed:
    return JobFailed(
        "server_error",
        f"The stored {role} file {row.id} is damaged; upload it again",
        f"{role}_file",
    )


def _base(worker: Worker, lease: Lease) -> BaseModel:
    name = lease.job.base_model
    base = worker.catalogue().get(name)
    if base is None:
        raise Setback(f"This server no longer has the base model {name}", code="server_error")
    return base


def _fetch_init_artifact(worker: Worker, lease: Lease, folder: Path) -> _Begun | None:
    """The tuned model that the job goes on from."""
    job = lease.job
    if job.init_artifact_id is None:
        return None
    with worker.sessions() as session:
        row = artifacts.get(session, job.init_artifact_id)
    if row is None:
        raise JobFailed("model_not_found", f"The model '{job.model}' does not exist", "model")
    tar = folder / "init_artifact.tar"
    try:
        worker.blobs.get_file(row.blob_key, tar, size_bytes=row.size_bytes, sha256=row.sha256)
    except (BlobMissing, BlobCorrupt) as error:
        message = f"The stored weights of the model '{job.model}' are damaged"
        raise JobFailed("server_error", message, "model") from error
    unpacked = archive.unpack(tar, folder / "init_artifact")
    tar.unlink()
    return _Begun(unpacked, trainables.of_artifact(row.kind, row.spec, unpacked))


def _decide(worker: Worker, lease: Lease, found: Planned, labels: Labels | None) -> None:
    """Keep what was found in the job's row, with its forecast."""
    job, resolved, shape = lease.job, found.resolved, found.plan.shape
    room.check(resolved.config.trainable, shape, found.merged, longest=found.plan.longest)
    numbers = {
        "n_epochs": resolved.config.n_epochs,
        "batch_size": resolved.config.batch_size,
        "learning_rate_multiplier": resolved.config.learning_rate_multiplier,
        # What was asked for, with nothing "auto" left; a method may keep more.
        **resolved.config.method.model_dump(include=set(job.hyperparameters)),
        **control.shown(job.hyperparameters, resolved.config),
    }
    forecast_id, forecast = new_id(forecasts.ID_PREFIX), _forecast(worker, job.id, found.plan)

    def write(session: Session) -> None:
        if labels is not None:
            classes.tell(session, lease, resolved.config.method, labels)
        if forecast is not None:
            forecasts.attach(
                session,
                forecast_id,
                project_id=job.project_id,
                job_id=job.id,
                asked=jobs.asked(job),
                values=forecast,
            )
            text = f"Forecast: {forecast['result']['text']}"
            data = {"forecast": forecast["result"]}
            events.add(session, job.id, "forecast", text, data=data)
        text = "Files validated, moving job to queued state"
        events.add(session, job.id, "validated", text, data={})

    lease.write(
        write,
        status="queued",
        train_config=resolved.to_json(),
        hyperparameters={**job.hyperparameters, **numbers},
        tuning=job.tuning and trainables.told(resolved.config.trainable),
        forecast=forecast and making.gist(forecast_id, forecast["result"]),
    )
    crash_point("after_config")


def _forecast(worker: Worker, job_id: str, plan: Plan) -> dict[str, Any] | None:
    """None where it cannot be made, which is no reason for the job to fail."""
    prices = making.Prices.of(worker.settings)
    try:
        with worker.sessions() as session:
            return making.make(session, plan, [Host.here()], prices)
    except OUT_OF_REACH:
        raise
    except Exception:
        log.exception("forecast.failed", job_id=job_id)
        return None


def _tell(lease: Lease, key: str, text: str) -> None:
    def write(session: Session) -> None:
        events.add(session, lease.job.id, key, text, data={})

    lease.write(write)
