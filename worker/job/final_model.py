"""Which checkpoint becomes a job's model: the last one, or the best one if its owner wants that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from storage.database import Json
from storage.jobs import checkpoints, events
from storage.jobs.checkpoints import CheckpointRow
from storage.jobs.jobs import JobRow
from storage.models import models

from . import control, publish


@dataclass(frozen=True)
class FinalModel:
    checkpoint: CheckpointRow
    reason: str
    """What its owner is told of the choice; empty where there was none."""
    data: Json


def choose(session: Session, job: JobRow, metrics: Sequence[Json]) -> FinalModel:
    """Among the checkpoints that are there; `metrics` are those of all steps."""
    last = checkpoints.at_step(session, job.id, metrics[-1]["step"])
    assert last is not None
    metric = control.best_metric(job.hyperparameters)
    best = control.best(metrics, metric, last.step) if metric else None
    if metric is None or best is None:
        return FinalModel(last, "", {})
    data = {"step": best["step"], "metric": metric, "value": best[metric]}
    chosen = checkpoints.at_step(session, job.id, best["step"])
    if chosen is None or models.find(session, job.project_id, chosen.model_name) is None:
        text = f"The checkpoint of step {best['step']}, the best by {metric}, was deleted; the last one is the model"
        return FinalModel(last, text, data)
    text = f"The checkpoint of step {best['step']} is the model: the best by {metric}, {best[metric]:.5g}"
    return FinalModel(chosen, text, data)


def name(session: Session, job: JobRow, final: FinalModel) -> str:
    """What the model is called: a checkpoint's name says of which step it is, and that of a model does not."""
    checkpoint = final.checkpoint
    if final.reason:
        events.add(session, job.id, "best", final.reason, data=final.data)
    found = models.find_to_train(session, job.project_id, checkpoint.model_name)
    if not publish.is_checkpoint_name(checkpoint.model_name) or found is None:
        return checkpoint.model_name
    new = publish.new_name(session, job)
    models.create(
        session,
        new,
        project_id=job.project_id,
        artifact_id=found[1].id,
        base_model=job.base_model,
        job_id=job.id,
        owned_by=job.organization_slug,
    )
    return new
