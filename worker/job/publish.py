"""A checkpoint folder becomes a model and a point to resume from: blobs first, then rows, all at once.

A crash in between leaves blobs that no row points at, never a row that points at nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from foundation.crash_points import crash_point
from foundation.errors import LuthierError, ModelNotFound
from storage.blobs import archive, artifact_keys
from storage.blobs.blobs import BlobInfo, BlobStore
from storage.database import Json
from storage.ids import new_id
from storage.jobs import checkpoints, events, jobs
from storage.jobs.jobs import JobRow
from storage.models import artifacts, models
from training.checkpoint_folder import SavedArtifact, artifact_of
from training.messages import CheckpointSaved, StepMetrics
from worker.lease import Lease

from . import control, progress

_CHECKPOINT = ":ckpt-step-"
EARLY_STOPPING = "early_stopping"
"""The key of an event."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Stored:
    """An artifact whose blob is in the store."""

    id: str
    saved: SavedArtifact
    blob: BlobInfo


@dataclass(frozen=True)
class _Model:
    """What is to become a model."""

    artifact: _Stored
    step: int
    metrics: Json
    """The data of the step's event."""
    is_final: bool


@dataclass
class _Written:
    """What a transaction leaves to be done once it is committed."""

    unused_blobs: list[str] = field(default_factory=list)


def checkpoint(blobs: BlobStore, lease: Lease, saved: CheckpointSaved) -> None:
    """Publish a checkpoint; one that was published before is not published again. Raises LostLease."""
    folder = Path(saved.path)
    lease.check()
    artifact = None
    metrics = saved.metrics
    if metrics is not None and (saved.end_of_epoch or saved.is_last):
        artifact = _store_artifact(blobs, folder)
    point = None
    # Behind the last step there is nothing to resume.
    if not saved.is_last:
        token = lease.claim.lease_token
        key = f"jobs/{lease.job.id}/attempts/{token}/{folder.name}.tar"
        point = archive.pack(folder, blobs, key)
    crash_point("after_upload")

    def write(session: Session) -> _Written:
        written = _Written()
        if artifact is not None and metrics is not None:
            best_step = _best_step(session, lease.job, saved.step)
            is_final = saved.is_last and best_step in (None, saved.step)
            model = _Model(artifact, saved.step, progress.data(metrics), is_final=is_final)
            _add_model(session, lease.job, model, written, best_step)
        if saved.stopped_early and metrics is not None:
            _tell_of_stop(session, lease.job, metrics)
        if point is not None:
            _add_resume_point(session, lease, saved.step, point, written)
        crash_point("before_checkpoint_commit")
        return written

    written = lease.write(write)
    crash_point("after_checkpoint_commit")
    delete(blobs, written.unused_blobs)


def snapshot(blobs: BlobStore, lease: Lease, folder: Path, step: int) -> None:
    """Make a model of the state in `folder`, at which a job pauses or breaks down. Raises LostLease."""
    lease.check()
    artifact = _store_artifact(blobs, folder)

    def write(session: Session) -> _Written:
        written = _Written()
        event = events.find(session, lease.job.id, f"step:{step}")
        metrics = (event and event.data) or {"step": step}
        model = _Model(artifact, step, metrics, is_final=False)
        best_step = _best_step(session, lease.job, step)
        _add_model(session, lease.job, model, written, best_step)
        return written

    delete(blobs, lease.write(write).unused_blobs)


def _store_artifact(blobs: BlobStore, folder: Path) -> _Stored:
    saved = artifact_of(folder)
    artifact_id = new_id(artifact_keys.ID_PREFIX)
    blob = archive.pack(saved.path, blobs, artifact_keys.key(artifact_id))
    return _Stored(artifact_id, saved, blob)


def _best_step(session: Session, job: JobRow, last_step: int) -> int | None:
    """The best epoch's so far, if the job's model is to be the best one's."""
    metric = control.best_metric(job.hyperparameters)
    if metric is None:
        return None
    best = control.best(events.metrics(session, job.id), metric, last_step)
    return None if best is None else best["step"]


def _tell_of_stop(session: Session, job: JobRow, last: StepMetrics) -> None:
    """The event by which the job is known to be done, though steps are left."""
    stopping = (job.train_config or {})["config"]["early_stopping"]
    epochs = "1 epoch" if stopping["patience"] == 1 else f"{stopping['patience']} epochs"
    text = (
        f"Training ended early at step {last.step}/{last.total_steps}: no gain in "
        f"{stopping['metric']} for {epochs}"
    )
    events.add(session, job.id, EARLY_STOPPING, text, data={"step": last.step, **stopping})


def _add_model(
    session: Session,
    job: JobRow,
    model: _Model,
    written: _Written,
    best_step: int | None = None,
) -> None:
    saved, blob, step = model.artifact.saved, model.artifact.blob, model.step
    if checkpoints.at_step(session, job.id, step) is not None:
        # A replay after a crash: the weights are the same, the first ones stay.
        written.unused_blobs.append(blob.key)
        return
    name = new_name(session, job)
    if not model.is_final:
        name += f"{_CHECKPOINT}{step}"
    artifacts.create(
        session,
        model.artifact.id,
        project_id=job.project_id,
        base_model=job.base_model,
        kind=saved.kind,
        spec=saved.spec,
        tensors=saved.tensors,
        blob=blob,
    )
    models.create(
        session,
        name,
        project_id=job.project_id,
        artifact_id=model.artifact.id,
        base_model=job.base_model,
        job_id=job.id,
        owned_by=job.organization_slug,
    )
    checkpoints.create(
        session,
        job_id=job.id,
        step=step,
        model_name=name,
        metrics=progress.checkpoint_metrics(model.metrics, job.method),
    )
    events.add(
        session,
        job.id,
        f"checkpoint:{step}",
        f"Checkpoint created at step {step} with Snapshot ID: {name}",
        data={},
    )
    written.unused_blobs += _remove_old(session, job, best_step)


def is_checkpoint_name(name: str) -> bool:
    return _CHECKPOINT in name


def new_name(session: Session, job: JobRow) -> str:
    """For a model of the job."""
    if job.legacy is None:
        return models.new_name(job.base_model, job.organization_slug, job.suffix)
    base = job.legacy["name"]
    return models.new_legacy_name(session, base, job.organization_slug, job.suffix)


def _remove_old(session: Session, job: JobRow, best_step: int | None) -> list[str]:
    """Take away the checkpoints that newer ones replace, the best one excepted; gives the blobs that are left over."""
    artifact_ids = []
    for name in checkpoints.remove_old(session, job.id, best_step=best_step):
        try:
            artifact_ids.append(models.remove(session, job.project_id, name))
        except ModelNotFound:
            # Its owner deleted it before.
            continue
    return artifacts.remove_unused(session, artifact_ids)


def _add_resume_point(
    session: Session, lease: Lease, step: int, blob: BlobInfo, written: _Written
) -> None:
    point = {
        "key": blob.key,
        "sha256": blob.sha256,
        "size_bytes": blob.size_bytes,
        "step": step,
    }
    fell_off = jobs.add_resume_point(session, lease.claim, point)
    written.unused_blobs += [old["key"] for old in fell_off]


def delete(blobs: BlobStore, keys: list[str]) -> None:
    """Take away blobs that no row points at; what cannot be deleted now is left to the cleanup."""
    for key in keys:
        try:
            blobs.delete(key)
        except (LuthierError, OSError) as error:
            log.warning("publish.delete_failed", key=key, error=str(error))
