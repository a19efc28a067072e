"""Deliveries of events to webhook endpoints. A delivery is a row for as long as it is to be made.

Taking one (`webhook_turns`) moves it into the future: a process that dies over it leaves it to be taken again, so an event is
delivered at least once, always under the same `webhook-id`. All times are the database's.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ForeignKey, Index, delete, func, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from storage.database import Base, CreatedAt
from storage.ids import new_id

GIVE_UP_AFTER = timedelta(hours=72)
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 6 * 3600.0
JITTER = 0.25
"""Part of a pause by which it varies, so that what failed together is not tried together."""
LEASE_S = 120
"""For as long nobody else takes a delivery that is being made."""


class WebhookDeliveryRow(Base):
    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "due_at"), Index(None, "endpoint_id", "due_at"))

    id: Mapped[str] = mapped_column(primary_key=True)
    """The `webhook-id` of every attempt."""
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    """The same for all endpoints that hear of the event."""
    type: Mapped[str]
    object_id: Mapped[str]
    """The job or batch that the event tells of."""
    created_at: Mapped[CreatedAt]
    due_at: Mapped[CreatedAt]
    attempts: Mapped[int] = mapped_column(default=0)

    def body(self) -> bytes:
        """The same bytes at each attempt."""
        return event_body(
            self.event_id, self.type, self.object_id, int(self.created_at.timestamp())
        )


def add(session: Session, endpoint_ids: Sequence[str], type: str, object_id: str) -> None:
    event_id = new_id("evt_")
    for endpoint_id in endpoint_ids:
        session.add(
            WebhookDeliveryRow(
                id=new_id("wh_"),
                endpoint_id=endpoint_id,
                event_id=event_id,
                type=type,
                object_id=object_id,
            )
        )
    session.flush()


def delivered(session: Session, row: WebhookDeliveryRow) -> None:
    session.execute(delete(WebhookDeliveryRow).where(*_is_this_attempt(row)))


def failed(session: Session, row: WebhookDeliveryRow) -> bool:
    """Try again later; False if this was the last attempt."""
    pause = timedelta(seconds=pause_s(row.attempts))
    next_at = func.clock_timestamp() + pause
    is_over = next_at > row.created_at + GIVE_UP_AFTER
    given_up = session.scalar(
        delete(WebhookDeliveryRow)
        .where(*_is_this_attempt(row), is_over)
        .returning(WebhookDeliveryRow.id)
    )
    session.execute(update(WebhookDeliveryRow).where(*_is_this_attempt(row)).values(due_at=next_at))
    return given_up is None


def pause_s(attempts: int) -> float:
    """Before the attempt after so many: 5 s, 10 s, 20 s … 6 h, each a little longer or shorter."""
    pause = min(FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 20), LONGEST_PAUSE_S)
    return pause * random.uniform(1 - JITTER, 1 + JITTER)


def event_body(event_id: str, type: str, object_id: str, created_at: int) -> bytes:
    event = {
        "id": event_id,
        "object": "event",
        "created_at": created_at,
        "type": type,
        "data": {"id": object_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def sample_body(type: str) -> bytes:
    """The body of an event of a job or batch that there is not."""
    object_id = new_id("batch_" if type.startswith("batch.") else "ftjob-")
    return event_body(new_id("evt_"), type, object_id, int(time.time()))


def _is_this_attempt(row: WebhookDeliveryRow) -> tuple[Any, ...]:
    """Nothing, if the lease ran out and somebody else made another attempt."""
    return (WebhookDeliveryRow.id == row.id, WebhookDeliveryRow.attempts == row.attempts)
