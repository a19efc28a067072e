"""No project's deliveries, however many and however slow, keep another project's waiting."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, text
from sqlalchemy.orm import Session, sessionmaker

from foundation.vault import Vault
from storage.ids import new_id
from storage.organization import projects
from storage.webhooks import turns as webhook_turns
from storage.webhooks import webhooks
from storage.webhooks.deliveries import WebhookDeliveryRow
from storage.webhooks.turns import Taken
from storage.webhooks.webhooks import WebhookEndpointRow

Database = sessionmaker[Session]


def project(database: Database, num_endpoints: int) -> list[WebhookEndpointRow]:
    """The endpoints of a new project."""
    with database.begin() as session:
        project_id = projects.create(session, "Test").id
        return [
            webhooks.create(
                session,
                project_id,
                Vault(),
                name="Tests",
                url="http://127.0.0.1/",
                event_types=webhooks.EVENT_TYPES,
            )
            for _ in range(num_endpoints)
        ]


def add_due(database: Database, to: WebhookEndpointRow, count: int, *, since_s: float) -> None:
    row = {
        "endpoint_id": to.id,
        "event_id": "evt_1",
        "type": "fine_tuning.job.succeeded",
        "object_id": "ftjob-1",
        "attempts": 0,
    }
    due_at = func.clock_timestamp() - timedelta(seconds=since_s)
    with database.begin() as session:
        session.execute(
            insert(WebhookDeliveryRow).values(due_at=due_at),
            [{"id": new_id("wh_"), **row} for _ in range(count)],
        )


def take(database: Database, num_places: int, under_way: dict[str, str]) -> list[Taken]:
    with database.begin() as session:
        return webhook_turns.take(session, num_places, under_way)


def test_backlog_of_ten_thousand_delays_another_project_by_no_round(database: Database) -> None:
    for endpoint in project(database, 100):
        add_due(database, endpoint, 100, since_s=3600)
    (other,) = project(database, 1)
    add_due(database, other, 1, since_s=0)
    taken = take(database, 64, {})
    assert Counter(endpoint.id == other.id for _, endpoint in taken) == {True: 1, False: 7}


def test_taking_reads_one_delivery_of_an_endpoint_and_not_its_backlog(database: Database) -> None:
    (endpoint,) = project(database, 1)
    add_due(database, endpoint, 5000, since_s=3600)
    with database.begin() as session:
        session.execute(text("ANALYZE webhook_deliveries"))
        chosen = webhook_turns._chosen(64, {}).element
        compiled = chosen.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = session.scalars(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}")).one()
    assert num_read(plan[0]["Plan"], "webhook_deliveries") == 1


def num_read(plan: dict[str, object], table: str) -> float:
    """Rows of a table that the nodes of a plan looked at."""
    own = 0.0
    if plan.get("Relation Name") == table:
        looked_at = plan["Actual Rows"], plan.get("Rows Removed by Filter", 0)
        own = sum(float(str(rows)) for rows in looked_at) * float(str(plan["Actual Loops"]))
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return own + sum(num_read(child, table) for child in children)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    endpoints=st.lists(st.integers(1, 6), min_size=1, max_size=6), num_places=st.integers(12, 40)
)
def test_every_project_has_a_place_though_all_receivers_hang(
    database: Database, endpoints: list[int], num_places: int
) -> None:
    with database.begin() as session:
        session.execute(text("TRUNCATE webhook_endpoints CASCADE"))
    under_way: dict[str, str] = {}
    for num_endpoints in endpoints:
        rows = project(database, num_endpoints)
        for row in rows:
            add_due(database, row, 2, since_s=60)
        # Whoever came earlier has taken what it could get, and nothing has come to an end.
        for _ in range(2):
            for _, endpoint in take(database, num_places, under_way):
                assert endpoint.id not in under_way
                under_way[endpoint.id] = endpoint.project_id
        assert rows[0].project_id in under_way.values()
        assert len(under_way) <= num_places
    with_places = Counter(under_way.values())
    assert all(count**2 <= num_places for count in with_places.values())
