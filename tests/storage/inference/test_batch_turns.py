"""No project's batches, however many and however long, keep another project's waiting."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from storage import leases
from storage.inference import batch_turns, batches
from storage.inference.batches import BatchRow
from storage.leases import Claim, LostLease
from storage.organization import projects
from tests.storage.rows import add_batch

Database = sessionmaker[Session]


def project(database: Database) -> str:
    with database.begin() as session:
        return projects.create(session, "Test").id


def add(database: Database, project_id: str, count: int = 1) -> list[str]:
    with database.begin() as session:
        return [add_batch(session, project_id).id for _ in range(count)]


def claim(database: Database, num_places: int = 8, owner: str = "me") -> Claim[BatchRow] | None:
    with database.begin() as session:
        return batch_turns.claim(session, owner, num_places)


def claimed(database: Database, num_places: int = 8) -> Claim[BatchRow]:
    found = claim(database, num_places)
    assert found is not None
    return found


def release(database: Database, held: Claim[BatchRow]) -> None:
    with database.begin() as session:
        leases.release(session, held)


def gives_way(
    database: Database, held: Claim[BatchRow], num_places: int, *, turn_is_over: bool = False
) -> bool:
    with database() as session:
        return batch_turns.must_give_way(session, held, "me", num_places, turn_is_over=turn_is_over)


def test_many_batches_of_one_project_leave_places_for_another(database: Database) -> None:
    many, other = project(database), project(database)
    add(database, many, 8)
    assert [claimed(database).row.project_id for _ in range(2)] == [many, many]
    assert claim(database) is None
    (batch_id,) = add(database, other)
    assert claimed(database).row.id == batch_id


def test_project_that_was_served_longest_ago_comes_first(database: Database) -> None:
    many = project(database)
    add(database, many, 5)
    others = [project(database) for _ in range(3)]
    for other in others:
        add(database, other, 2)
    order = []
    for _ in range(8):
        held = claimed(database, 1)
        order.append(held.row.project_id)
        release(database, held)
    assert order == [many, *others, many, *others]


def test_batch_gives_way_only_to_one_that_could_not_begin_otherwise(database: Database) -> None:
    first, second = project(database), project(database)
    add(database, first, 3)
    one, two = claimed(database, 4), claimed(database, 4)
    assert not gives_way(database, one, 4, turn_is_over=False)
    # A batch of its own project waits for the turn's end.
    assert gives_way(database, one, 4, turn_is_over=True)
    with database.begin() as session:
        for held in (one, two):
            leases.renew(session, held)
    add(database, second)
    # It has a place already.
    assert not gives_way(database, one, 4, turn_is_over=True)


def test_batch_gives_way_at_once_to_a_project_that_has_fewer(database: Database) -> None:
    greedy, *others = (project(database) for _ in range(4))
    add(database, greedy, 2)
    first, _ = claimed(database, 4), claimed(database, 4)
    for other in others[:2]:
        add(database, other)
        claimed(database, 4)
    add(database, others[2])
    assert claim(database, 4) is None
    assert gives_way(database, first, 4)
    release(database, first)
    assert claimed(database, 4).row.project_id == others[2]


def test_cancelled_batch_is_the_next_of_its_project(database: Database) -> None:
    project_id = project(database)
    *_, last = add(database, project_id, 3)
    with database.begin() as session:
        batches.cancel(session, project_id, last)
    assert claimed(database).row.id == last


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=5), num_places=st.integers(10, 16))
def test_every_project_has_a_place_though_no_batch_ends(
    database: Database, counts: list[int], num_places: int
) -> None:
    with database.begin() as session:
        session.execute(update(BatchRow).values(status="cancelled", lease_owner=None))
    under_way: list[str] = []
    for count in counts:
        project_id = project(database)
        add(database, project_id, count)
        while (held := claim(database, num_places)) is not None:
            under_way.append(held.row.project_id)
        assert project_id in under_way
    assert len(under_way) <= num_places
    assert all(count**2 <= num_places for count in Counter(under_way).values())


def test_late_renewal_does_not_revive_a_lease_that_was_given_back(database: Database) -> None:
    add(database, project(database))
    held = claimed(database)
    release(database, held)
    with pytest.raises(LostLease), database.begin() as session:
        leases.renew(session, held)
    assert claim(database) is not None


def test_late_renewal_does_not_revive_the_lease_of_one_given_up_for_dead(
    database: Database,
) -> None:
    add(database, project(database))
    held = claimed(database)
    with database.begin() as session:
        leases.expire(session, BatchRow, ["me"])
    with pytest.raises(LostLease), database.begin() as session:
        leases.renew(session, held)
    next_one = claimed(database)
    assert next_one.lease_token > held.lease_token
    assert next_one.row.crashes == 1


def test_lease_that_ran_out_takes_no_place(database: Database) -> None:
    add(database, project(database))
    held = claimed(database, 1)
    assert claim(database, 1) is None
    over = func.clock_timestamp() - timedelta(seconds=1)
    with database.begin() as session:
        session.execute(update(BatchRow).values(lease_expires_at=over))
    assert claimed(database, 1).row.id == held.row.id
