"""A job's events in the words of the old API, made when they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel

from storage.jobs import fine_tunes
from storage.jobs.events import EventRow
from storage.jobs.jobs import JobRow


class FineTuneEvent(BaseModel):
    object: Literal["fine-tune-event"] = "fine-tune-event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str


def tell(job: JobRow, rows: Iterable[EventRow]) -> list[FineTuneEvent]:
    """One event of ours is none, one or several of the old ones.

    The row must be as new as the events: it says what the model and the result file are called.
    """
    return [
        FineTuneEvent(created_at=int(row.created_at.timestamp()), level=row.level, message=text)
        for row in rows
        for text in _texts(job, row)
    ]


_SAME_FOR_ALL: dict[str, list[str]] = {
    "validating": [],
    "validated": ["Fine-tune is in the queue. Queue number: 0"],
    "started": ["Fine-tune started"],
    "checkpoint": [],
    "succeeded": ["Fine-tune succeeded"],
    "cancelled": ["Fine-tune cancelled"],
}
"""By the first word of an event's key."""


def _texts(job: JobRow, row: EventRow) -> list[str]:
    kind = row.key.partition(":")[0]
    if kind in _SAME_FOR_ALL:
        return _SAME_FOR_ALL[kind]
    match kind:
        case "created":
            queue_number = (job.legacy or {}).get("queue_number", 0)
            return [
                f"Created fine-tune: {job.id}",
                "Fine-tune costs $0.00",
                f"Fine-tune enqueued. Queue number: {queue_number}",
            ]
        case "step":
            epoch = fine_tunes.ended_epoch(job, row.data or {})
            if epoch is None:
                return []
            return [f"Completed epoch {epoch}/{job.hyperparameters['n_epochs']}"]
        case "model":
            files = [f"Uploaded result file: {file_id}" for file_id in job.result_files]
            return [f"Uploaded model: {job.fine_tuned_model}", *files]
        case "failed":
            return [f"Fine-tune failed. {row.message}"]
    return [row.message]
