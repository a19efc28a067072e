from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from storage.organization import projects, usage
from storage.organization.usage import Total, UsageKey, Used

Database = sessionmaker[Session]

HOUR_S = 3600
T0_S = 1_700_000_000 // HOUR_S * HOUR_S


def key(project_id: str, minute: int = 0, *, model: str = "a", is_batch: bool = False) -> UsageKey:
    return UsageKey(T0_S + 60 * minute, project_id, "key_1", model, is_batch)


@pytest.fixture
def used(database: Database, project_id: str) -> str:
    """A project that used two models in the first and the third hour; gives its id."""
    with database.begin() as session:
        usage.add(session, {key(project_id): Used(10, 4, 5, 1)})
        usage.add(
            session,
            {
                key(project_id): Used(1, 0, 2, 1),
                key(project_id, 59): Used(100, 0, 50, 1),
                key(project_id, 59, model="b", is_batch=True): Used(7, 0, 7, 1),
                key(project_id, 120): Used(1000, 0, 500, 3),
            },
        )
    return project_id


def test_use_of_a_minute_adds_up_in_its_row(database: Database, used: str) -> None:
    with database() as session:
        found = usage.totals(session, start_s=T0_S, end_s=T0_S + 60, width_s=60)
        assert found == [Total(T0_S, {}, Used(11, 4, 7, 2))]
        assert usage.first_minute(session) == T0_S


def test_totals_come_by_bucket_and_group(database: Database, used: str) -> None:
    with database() as session:
        found = usage.totals(
            session,
            start_s=T0_S,
            end_s=T0_S + 3 * HOUR_S,
            width_s=HOUR_S,
            group_by=("model", "is_batch"),
        )
    assert found == [
        Total(T0_S, {"model": "a", "is_batch": False}, Used(111, 4, 57, 3)),
        Total(T0_S, {"model": "b", "is_batch": True}, Used(7, 0, 7, 1)),
        Total(T0_S + 2 * HOUR_S, {"model": "a", "is_batch": False}, Used(1000, 0, 500, 3)),
    ]


def test_totals_hold_only_what_is_in_the_range_and_was_asked_for(
    database: Database, used: str
) -> None:
    with database.begin() as session:
        other = projects.create(session, "Other").id
        usage.add(session, {key(other): Used(9, 9, 9, 9)})

        def tokens(start: int, end: int, **where: Any) -> list[int]:
            dimensions: dict[Any, Any] = where
            found = usage.totals(
                session, start_s=start, end_s=end, width_s=HOUR_S, where=dimensions
            )
            return [total.used.input_tokens for total in found]

        assert tokens(T0_S + 60, T0_S + 2 * HOUR_S) == [107]
        assert tokens(T0_S, T0_S + HOUR_S, project_id=[used]) == [118]
        assert tokens(T0_S, T0_S + HOUR_S, project_id=[used], model=["b", "c"]) == [7]
        assert tokens(T0_S, T0_S + HOUR_S, is_batch=[True]) == [7]
        assert tokens(T0_S, T0_S + HOUR_S, api_key_id=[]) == []


def test_nothing_used_is_nothing_found(database: Database) -> None:
    with database.begin() as session:
        usage.add(session, {})
        assert usage.first_minute(session) is None
        assert usage.totals(session, start_s=0, end_s=T0_S, width_s=60) == []
