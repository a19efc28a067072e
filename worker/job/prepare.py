"""From a claimed job to the trainer's orders: local files, a valid data set, and nothing left "auto"."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy.orm import Session

from foundation.crash_points import crash_point
from foundation.errors import BlobCorrupt, BlobMissing
from storage.files import files
from storage.files.files import FileRow
from storage.jobs import events, jobs
from storage.models import artifacts
from training.messages import Start, TrainConfig
from worker import bases
from worker.lease import Lease
from worker.worker import Worker

from . import archive, resume
from . import resolve as config
from .ending import JobFailed, Setback
from .validate import Role, Statistics, validate


def prepare(worker: Worker, lease: Lease, folder: Path) -> Start:
    """Everything that comes before training; `folder` is empty and gets the local files.

    Raises JobFailed for what is wrong with the job, Setback, LostLease, Paused and Stopped.
    """
    _check(worker, lease)
    job = lease.job
    rows = _file_rows(worker, lease)
    if job.train_config is None:
        statistics = _validate(worker, lease, rows, folder)
        base_path = _base_path(worker, lease)
        init_adapter = _fetch_init_adapter(worker, lease, folder)
        train_config = _resolve(worker, lease, statistics, base_path, init_adapter)
    else:
        # Another attempt: what was found and decided then still holds.
        for role, row in rows.items():
            _fetch(worker, lease, row, role, folder)
        base_path = _base_path(worker, lease)
        init_adapter = _fetch_init_adapter(worker, lease, folder)
        train_config = config.from_json(job.train_config, base_path=str(base_path))
    output = folder / "checkpoints"
    output.mkdir()
    resume_from = resume.fetch(worker.blobs, lease, folder)
    return Start(
        job_id=job.id,
        config=train_config,
        training_file=str(folder / "training.jsonl"),
        validation_file=str(folder / "validation.jsonl") if job.validation_file else None,
        output_dir=str(output),
        resume_from=str(resume_from) if resume_from else None,
        init_adapter=str(init_adapter) if init_adapter else None,
    )


def _check(worker: Worker, lease: Lease) -> None:
    """May the work go on? Raises LostLease, Stopped and Paused."""
    lease.check()
    worker.check_stopping()
    lease.check_pausing()


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


def _validate(
    worker: Worker, lease: Lease, rows: dict[Role, FileRow], folder: Path
) -> dict[Role, Statistics]:
    job = lease.job
    text = f"Validating training file: {job.training_file}"
    if job.validation_file:
        text += f" and validation file: {job.validation_file}"
    _tell(lease, "validating", text)
    statistics: dict[Role, Statistics] = {}
    for role, row in rows.items():
        chunks = _chunks(worker, lease, row, role)
        local = folder / f"{role}.jsonl"
        statistics[role] = validate(chunks, local, file_id=row.id, role=role)
    crash_point("after_validation")
    return statistics


def _chunks(worker: Worker, lease: Lease, row: FileRow, role: Role) -> Iterator[bytes]:
    try:
        for chunk in worker.blobs.read(row.blob_key, size_bytes=row.size_bytes, sha256=row.sha256):
            _check(worker, lease)
            yield chunk
    except (BlobMissing, BlobCorrupt) as error:
        raise _unreadable(row, role) from error


def _fetch(worker: Worker, lease: Lease, row: FileRow, role: Role, folder: Path) -> None:
    with (folder / f"{role}.jsonl").open("wb") as local:
        for chunk in _chunks(worker, lease, row, role):
            local.write(chunk)


def _unreadable(row: FileRow, role: Role) -> JobFailed:
    return JobFailed(
        "server_error",
        f"The stored {role} file {row.id} is damaged; upload it again",
        f"{role}_file",
    )


def _base_path(worker: Worker, lease: Lease) -> Path:
    name = lease.job.base_model
    base = worker.catalogue().get(name)
    if base is None:
        raise Setback(f"This server no longer has the base model {name}", code="server_error")
    return worker.bases.path(base, lambda: _check(worker, lease))


def _fetch_init_adapter(worker: Worker, lease: Lease, folder: Path) -> Path | None:
    """The unpacked weights of the tuned model that the job goes on from."""
    job = lease.job
    if job.init_artifact_id is None:
        return None
    with worker.sessions() as session:
        row = artifacts.get(session, job.init_artifact_id)
    if row is None:
        raise JobFailed("model_not_found", f"The model '{job.model}' does not exist", "model")
    tar = folder / "init_adapter.tar"
    try:
        worker.blobs.get_file(row.blob_key, tar, size_bytes=row.size_bytes, sha256=row.sha256)
    except (BlobMissing, BlobCorrupt) as error:
        message = f"The stored weights of the model '{job.model}' are damaged"
        raise JobFailed("server_error", message, "model") from error
    unpacked = archive.unpack(tar, folder / "init_adapter")
    tar.unlink()
    return unpacked


def _resolve(
    worker: Worker,
    lease: Lease,
    statistics: dict[Role, Statistics],
    base_path: Path,
    init_adapter: Path | None,
) -> TrainConfig:
    job = lease.job
    base = worker.catalogue().get(job.base_model)
    assert base is not None
    try:
        architecture = config.Architecture.read(bases.read_config(base_path), base.family)
    except (KeyError, TypeError, ValueError) as error:
        message = f"The base model {base.id} cannot be tuned: its config.json lacks {error}"
        raise Setback(message, code="server_error") from error
    resolved = config.resolve(
        hyperparameters=job.hyperparameters,
        num_examples=statistics["training"].num_examples,
        num_supervised_bytes=statistics["training"].num_supervised_bytes,
        architecture=architecture,
        base_model=job.base_model,
        base_path=str(base_path),
        max_seq_len=base.max_seq_len,
        seed=job.seed,
        init_adapter=_shape(init_adapter) if init_adapter else None,
    )
    numbers = {
        "n_epochs": resolved.config.n_epochs,
        "batch_size": resolved.config.batch_size,
        "learning_rate_multiplier": resolved.config.learning_rate_multiplier,
    }

    def write(session: Session) -> None:
        jobs.renew(
            session,
            lease.claim,
            status="queued",
            train_config=resolved.to_json(),
            hyperparameters={**job.hyperparameters, **numbers},
        )
        text = "Files validated, moving job to queued state"
        events.add(session, job.id, "validated", text, data={})

    lease.write(write)
    crash_point("after_config")
    return resolved.config


def _shape(init_adapter: Path) -> config.AdapterShape:
    stored = json.loads((init_adapter / "adapter_config.json").read_text(encoding="utf-8"))
    modules: Iterable[str] = stored["target_modules"]
    # Its order in the file is arbitrary, that of the config part of what makes a run repeatable.
    return config.AdapterShape(
        int(stored["r"]), float(stored["lora_alpha"]), tuple(sorted(modules))
    )


def _tell(lease: Lease, key: str, text: str) -> None:
    def write(session: Session) -> None:
        jobs.renew(session, lease.claim)
        events.add(session, lease.job.id, key, text, data={})

    lease.write(write)
