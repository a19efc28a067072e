"""An event of a fine-tuning job on the wire."""

from __future__ import annotations

from typing import Any, Literal

import orjson
from pydantic import BaseModel
from sqlalchemy import Row

from storage.jobs.events import EventRow


class FineTuningJobEvent(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


def render(row: EventRow | Row[Any]) -> bytes:
    """The event as JSON, a FineTuningJobEvent. By hand, because pollers ask for thousands a second."""
    return orjson.dumps(
        {
            "id": row.id,
            "object": "fine_tuning.job.event",
            "created_at": int(row.created_at.timestamp()),
            "level": row.level,
            "message": row.message,
            "type": row.type,
            "data": row.data,
        }
    )
