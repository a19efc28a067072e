from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from storage.inference import stored_completions
from storage.inference.stored_completions import CompletionNotFound, StoredCompletionRow
from storage.organization import projects

Database = sessionmaker[Session]
QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "a\0b"}]


def keep(
    session: Session,
    project_id: str,
    completion_id: str,
    model: str = "m",
    metadata: dict[str, str] | None = None,
) -> None:
    stored_completions.create(
        session,
        project_id,
        completion={"id": completion_id, "model": model, "choices": []},
        messages=QUESTION,
        metadata=metadata,
    )


def ids(page: Any) -> list[str]:
    return [row.id for row in page.rows]


def test_a_completion_comes_back_as_it_was_kept(database: Database, project_id: str) -> None:
    with database.begin() as session:
        keep(session, project_id, "c1", metadata={"k": "v"})
    with database() as session:
        row = stored_completions.get(session, project_id, "c1")
        assert row.messages == QUESTION
        assert row.completion == {"id": "c1", "model": "m", "choices": []}
        assert row.metadata_ == {"k": "v"}


def test_pages_run_oldest_first_and_hold_what_the_filters_let_through(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        for n in range(4):
            keep(session, project_id, f"c{n}", f"m{n % 2}", {"n": str(n), "all": "x"})
        keep(session, project_id, "bare")
    with database() as session:

        def found(**filters: Any) -> list[str]:
            return ids(stored_completions.page(session, project_id, **filters))

        assert found() == ["c0", "c1", "c2", "c3", "bare"]
        assert found(descending=True, limit=2) == ["bare", "c3"]
        assert found(after="c1", limit=1) == ["c2"]
        assert found(after="unknown") == found(limit=0) == []
        assert found(model="m1") == ["c1", "c3"]
        assert found(metadata={"n": "2", "all": "x"}) == ["c2"]
        assert found(metadata={"n": "2", "all": "y"}) == []


def test_another_project_s_completion_is_unknown(database: Database, project_id: str) -> None:
    with database.begin() as session:
        other = projects.create(session, "Other").id
        keep(session, project_id, "c1")
        keep(session, other, "c2")
        for act in (
            lambda: stored_completions.get(session, project_id, "c2"),
            lambda: stored_completions.update(session, project_id, "c2", {}),
            lambda: stored_completions.remove(session, project_id, "c2"),
        ):
            with pytest.raises(CompletionNotFound, match="Completion c2 not found"):
                act()
        assert stored_completions.page(session, project_id, after="c2").rows == []


def test_one_id_may_stand_for_completions_of_two_projects(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        other = projects.create(session, "Other").id
        keep(session, project_id, "c1", "mine")
        keep(session, other, "c1", "theirs")
        stored_completions.remove(session, other, "c1")
        assert stored_completions.get(session, project_id, "c1").model == "mine"


def test_metadata_is_replaced_and_a_removed_completion_is_gone(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        keep(session, project_id, "c1", metadata={"a": "1"})
        stored_completions.update(session, project_id, "c1", {"b": "2"})
    with database.begin() as session:
        assert stored_completions.get(session, project_id, "c1").metadata_ == {"b": "2"}
        stored_completions.remove(session, project_id, "c1")
        assert stored_completions.find(session, project_id, "c1") is None


def test_what_is_older_than_a_month_goes(database: Database, project_id: str) -> None:
    with database.begin() as session:
        keep(session, project_id, "old")
        session.execute(
            update(StoredCompletionRow).values(created_at=func.now() - timedelta(days=31))
        )
        keep(session, project_id, "new")
        stored_completions.remove_expired(session)
        assert ids(stored_completions.page(session, project_id)) == ["new"]
