"""Whose webhook is delivered next: the projects take turns, and none can fill all places.

A receiver may hang for as long as a post may take, so places are what projects compete for. The n-th
delivery that a project has under way may only begin in the first `num_places / n` places. So a project
alone has the square root of them, and half of all places are left for projects that have nothing under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, select, true, update
from sqlalchemy.orm import Session

from .deliveries import LEASE_S, WebhookDeliveryRow
from .webhooks import WebhookEndpointRow

Taken = tuple[WebhookDeliveryRow, WebhookEndpointRow]


def take(session: Session, num_places: int, under_way: Mapping[str, str]) -> list[Taken]:
    """Deliveries to begin now. `under_way` has the endpoints that are delivered to, with their projects.

    To an endpoint one at a time. The work grows with the number of endpoints and not with what is due.
    """
    now = func.clock_timestamp()
    chosen = _chosen(num_places, under_way)
    mine = session.scalars(
        select(WebhookDeliveryRow.id)
        .join(chosen, chosen.c.id == WebhookDeliveryRow.id)
        .where(WebhookDeliveryRow.due_at <= now)
        .order_by(chosen.c.place)
        .with_for_update(of=WebhookDeliveryRow, skip_locked=True)
    ).all()
    rows = session.scalars(
        update(WebhookDeliveryRow)
        .where(WebhookDeliveryRow.id.in_(mine))
        .values(attempts=WebhookDeliveryRow.attempts + 1, due_at=now + timedelta(seconds=LEASE_S))
        .returning(WebhookDeliveryRow)
        .execution_options(populate_existing=True)
    ).all()
    endpoint_ids = [row.endpoint_id for row in rows]
    query = select(WebhookEndpointRow).where(WebhookEndpointRow.id.in_(endpoint_ids))
    endpoints = {endpoint.id: endpoint for endpoint in session.scalars(query)}
    in_turn = {delivery_id: place for place, delivery_id in enumerate(mine)}
    return [
        (row, endpoints[row.endpoint_id]) for row in sorted(rows, key=lambda row: in_turn[row.id])
    ]


def _chosen(num_places: int, under_way: Mapping[str, str]) -> Any:
    """Ids of deliveries that have a place, and which."""
    first = (
        select(WebhookDeliveryRow.id, WebhookDeliveryRow.due_at)
        .where(
            WebhookDeliveryRow.endpoint_id == WebhookEndpointRow.id,
            WebhookDeliveryRow.due_at <= func.clock_timestamp(),
        )
        .order_by(WebhookDeliveryRow.due_at)
        .limit(1)
        .lateral()
    )
    by_project = func.row_number().over(
        partition_by=WebhookEndpointRow.project_id, order_by=first.c.due_at
    )
    turns = (
        select(
            first.c.id,
            first.c.due_at,
            (by_project + _num_of_project(under_way)).label("turn"),
        )
        .join(first, true())
        .where(WebhookEndpointRow.id.not_in(under_way))
        .subquery()
    )
    place = func.row_number().over(order_by=(turns.c.turn, turns.c.due_at)) + len(under_way)
    places = select(turns.c.id, turns.c.turn, place.label("place")).subquery()
    return (
        select(places.c.id, places.c.place)
        .where(places.c.turn * places.c.place <= num_places)
        .subquery()
    )


def _num_of_project(under_way: Mapping[str, str]) -> ColumnElement[int]:
    """How many deliveries the endpoint's project has under way."""
    counts = Counter(under_way.values())
    if not counts:
        return literal(0)
    return case(dict(counts), value=WebhookEndpointRow.project_id, else_=0)
