"""What a job that classifies found to choose among; its models are asked about it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from storage.database import Json
from storage.models.models import ModelRow

from .jobs import JobRow


@dataclass(frozen=True)
class Classes:
    form: str
    """Of the rows it learnt from: "chat", "completion" or "text"."""
    names: list[str]
    """Of the labels."""
    labels: list[Json]
    """`{text, token_ids}`; none where the model has a head, which knows its own."""


def of_model(session: Session, model: ModelRow) -> Classes | None:
    """None for a model that was trained to do something else."""
    job = session.get(JobRow, model.job_id)
    if job is None or job.train_config is None or job.method != "classification":
        return None
    method = job.train_config["config"]["method"]
    names = [label["text"] for label in method["labels"]]
    if method.get("head"):
        return Classes(method["form"], names, [])
    labels = [{name: label[name] for name in ("text", "token_ids")} for label in method["labels"]]
    return Classes(method["form"], names, labels)
