from __future__ import annotations

from typing import Any

from sqlalchemy import event, text
from sqlalchemy.orm import Session, sessionmaker

from storage.jobs import events
from tests.storage.rows import add_job

Database = sessionmaker[Session]


def test_event_of_a_key_is_told_once(database: Database, project_id: str) -> None:
    with database.begin() as session:
        job = add_job(session, project_id)
        other = add_job(session, project_id)
        for text in ("first", "again"):
            events.add(session, job.id, "step:1", text, type="metrics", data={"step": 1})
        events.add(session, other.id, "step:1", "of another job")
    with database() as session:
        page = events.page(session, job.id, after=None, limit=10)
        assert [event.message for event in page.rows] == ["first", page.rows[1].message]
        assert events.metrics(session, job.id) == [{"step": 1}]


def test_pages_run_newest_first_and_from_a_cursor(database: Database, project_id: str) -> None:
    with database.begin() as session:
        job = add_job(session, project_id)
        for step in range(1, 6):
            events.add(session, job.id, f"step:{step}", str(step))
    with database() as session:
        first = events.page(session, job.id, after=None, limit=4)
        assert [event.message for event in first.rows] == ["5", "4", "3", "2"]
        assert first.has_more
        rest = events.page(session, job.id, after=first.rows[-1].id, limit=4)
        assert [event.message for event in rest.rows[:1]] == ["1"]
        assert not rest.has_more
        assert events.page(session, job.id, after="ftevent-none", limit=4).rows == []
        foreign = add_job(session, project_id)
        assert events.page(session, foreign.id, after=first.rows[0].id, limit=4).rows == []


def test_metrics_come_in_the_order_of_the_steps(database: Database, project_id: str) -> None:
    with database.begin() as session:
        job = add_job(session, project_id)
        for step in (1, 2, 3):
            events.add(
                session, job.id, f"step:{step}", "", type="metrics", data={"step": step, "x": 0.1}
            )
        events.add(session, job.id, "started", "Fine-tuning job started")
    with database() as session:
        assert [data["step"] for data in events.metrics(session, job.id)] == [1, 2, 3]


def test_event_is_found_by_its_key(database: Database, project_id: str) -> None:
    with database.begin() as session:
        job = add_job(session, project_id)
        events.add(session, job.id, "crash:1", "It broke", level="warn", data={"step": 7})
        found = events.find(session, job.id, "crash:1")
        assert found is not None
        assert (found.level, found.type, found.data) == ("warn", "message", {"step": 7})
        assert events.find(session, job.id, "crash:2") is None


def test_last_metrics_are_found_without_reading_the_others(
    database: Database, project_id: str
) -> None:
    with database.begin() as session:
        job, silent = add_job(session, project_id), add_job(session, project_id)
        for step in range(1, 301):
            events.add(session, job.id, f"step:{step}", "", type="metrics", data={"step": step})
        events.add(session, job.id, "model", "New fine-tuned model created", data={})
    with database() as session:
        session.execute(text("SET enable_seqscan = off"))
        session.execute(text("ANALYZE events"))
        assert events.last_metrics(session, silent.id) is None
        asked: list[tuple[str, Any]] = []

        @event.listens_for(session.connection(), "before_cursor_execute")
        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            asked.append((statement, values))

        assert events.last_metrics(session, job.id) == {"step": 300}
        ((statement, values),) = asked
        plan = session.connection().exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values
        )
        (scan,) = plan.scalar_one()[0]["Plan"]["Plans"]
    assert scan["Node Type"] == "Index Scan"
    assert scan["Rows Removed by Filter"] == 1
