"""Webhook endpoints: where a project wants to hear of its jobs and batches.

`record` is called in the transaction that makes something so: either both are true, or neither is.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, get_args

from sqlalchemy import ForeignKey, Index, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from foundation.errors import InvalidRequest, NotFound
from foundation.vault import Vault
from storage import pages
from storage.database import Base, CreatedAt, Timestamp
from storage.ids import new_id

from . import deliveries as webhook_deliveries

EventType = Literal[
    "batch.cancelled",
    "batch.completed",
    "batch.expired",
    "batch.failed",
    "fine_tuning.job.cancelled",
    "fine_tuning.job.failed",
    "fine_tuning.job.succeeded",
]
"""What can be heard of here; OpenAI's names."""
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

MAX_ENDPOINTS = 100
"""Of a project: each event becomes a delivery to every endpoint that wants it."""
OLD_SECRET_HOURS = 24


class WebhookEndpointRow(Base):
    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index(None, "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[str]
    """`whsec_` and base64, or that sealed: it signs, so a hash would not do. It opens nothing here."""
    old_secret: Mapped[str | None]
    """Signs too, until it expires, so that receivers can change over."""
    old_secret_expires_at: Mapped[Timestamp | None]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[CreatedAt]


def record(session: Session, project_id: str, type: EventType, object_id: str) -> None:
    """Note an event for every endpoint that wants it; without one this is a single look-up."""
    wanting = session.scalars(
        select(WebhookEndpointRow.id)
        .where(
            WebhookEndpointRow.project_id == project_id,
            WebhookEndpointRow.event_types.contains([type]),
        )
        # An endpoint that is deleted meanwhile must not break what the event tells of.
        .with_for_update(read=True, key_share=True)
    ).all()
    if wanting:
        webhook_deliveries.add(session, wanting, type, object_id)


def create(
    session: Session,
    project_id: str,
    vault: Vault,
    *,
    name: str,
    url: str,
    event_types: Sequence[EventType],
) -> WebhookEndpointRow:
    of_project = select(func.count()).where(WebhookEndpointRow.project_id == project_id)
    if (session.scalar(of_project) or 0) >= MAX_ENDPOINTS:
        raise InvalidRequest(f"A project can have {MAX_ENDPOINTS} webhook endpoints at most.")
    endpoint_id = new_id("we_")
    row = WebhookEndpointRow(
        id=endpoint_id,
        project_id=project_id,
        name=name,
        url=url,
        event_types=sorted(set(event_types)),
        secret=_new_secret(vault, endpoint_id),
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpointRow | None:
    return session.scalar(
        select(WebhookEndpointRow).where(
            WebhookEndpointRow.id == endpoint_id, WebhookEndpointRow.project_id == project_id
        )
    )


def get(session: Session, project_id: str, endpoint_id: str) -> WebhookEndpointRow:
    row = find(session, project_id, endpoint_id)
    if row is None:
        raise NotFound(f"No webhook endpoint found with id '{endpoint_id}'.")
    return row


def page(
    session: Session, project_id: str, *, after: str | None, limit: int
) -> pages.RowPage[WebhookEndpointRow]:
    """Newest first."""
    return pages.read(
        session,
        select(WebhookEndpointRow).where(WebhookEndpointRow.project_id == project_id),
        WebhookEndpointRow.created_at,
        WebhookEndpointRow.id,
        after=find(session, project_id, after) if after else None,
        is_after_unknown=after is not None,
        limit=limit,
    )


def update(
    session: Session,
    project_id: str,
    endpoint_id: str,
    *,
    name: str | None = None,
    url: str | None = None,
    event_types: Sequence[EventType] | None = None,
) -> WebhookEndpointRow:
    """Change what is given; `updated_at` moves only if that changes anything."""
    row = get(session, project_id, endpoint_id)
    row.name = row.name if name is None else name
    row.url = row.url if url is None else url
    if event_types is not None:
        row.event_types = sorted(set(event_types))
    if session.is_modified(row):
        _touch(session, row)
    return row


def rotate_secret(
    session: Session, project_id: str, endpoint_id: str, vault: Vault, *, keep_old: bool
) -> WebhookEndpointRow:
    """Give it a new secret; the old one signs for a day more, or is void at once."""
    row = get(session, project_id, endpoint_id)
    row.old_secret = row.secret if keep_old else None
    row.secret = _new_secret(vault, row.id)
    _touch(session, row)
    row.old_secret_expires_at = (
        row.updated_at + timedelta(hours=OLD_SECRET_HOURS) if keep_old else None
    )
    session.flush()
    return row


def remove(session: Session, project_id: str, endpoint_id: str) -> None:
    """Its deliveries go with it."""
    row = get(session, project_id, endpoint_id)
    session.execute(delete(WebhookEndpointRow).where(WebhookEndpointRow.id == row.id))


def live_secrets(session: Session, row: WebhookEndpointRow) -> list[str]:
    """Those that deliveries are signed with now, the newest first, as they are kept; see `opened`."""
    is_over = row.old_secret_expires_at is None or session.scalar(
        select(row.old_secret_expires_at <= func.clock_timestamp())
    )
    return [row.secret] if row.old_secret is None or is_over else [row.secret, row.old_secret]


def opened(vault: Vault, endpoint_id: str, kept: str) -> str:
    """A secret of that endpoint as its receiver knows it. Raises CannotOpen."""
    return vault.open(kept.encode(), name_of_secret(endpoint_id)).decode()


def name_of_secret(endpoint_id: str) -> str:
    """What its secrets are sealed under."""
    return f"webhook_endpoints/{endpoint_id}"


def _new_secret(vault: Vault, endpoint_id: str) -> str:
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    return vault.seal(secret.encode(), name_of_secret(endpoint_id)).decode()


def _touch(session: Session, row: WebhookEndpointRow) -> None:
    row.updated_at = session.scalars(select(func.clock_timestamp())).one()
    session.flush()
