from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest
from sqlalchemy import inspect, text

from migrations.upgrade import upgrade
from storage import rows
from storage.database import sync_engine

from .alembic_commands import with_connection

TABLES = set(rows.metadata.tables)


def tables(url: str) -> set[str]:
    engine = sync_engine(url, at_other_schema=None)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_upgrade_makes_every_table_and_again_changes_nothing(empty_url: str) -> None:
    upgrade(empty_url)
    assert tables(empty_url) == TABLES | {"alembic_version"}
    upgrade(empty_url)
    assert tables(empty_url) == TABLES | {"alembic_version"}


def test_rows_and_migrations_have_not_drifted_apart(empty_url: str) -> None:
    upgrade(empty_url)
    # Raises when autogenerate would write anything.
    with_connection(empty_url, "check")


def test_downgrade_to_base_leaves_nothing_and_upgrade_works_again(empty_url: str) -> None:
    upgrade(empty_url)
    with_connection(empty_url, "downgrade", "base")
    assert tables(empty_url) == {"alembic_version"}
    upgrade(empty_url)
    assert tables(empty_url) == TABLES | {"alembic_version"}


def test_job_that_was_cancelled_before_has_ended_when_its_event_says_so(empty_url: str) -> None:
    with_connection(empty_url, "upgrade", "0007")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO projects (id, name, organization_id, organization_slug) "
            "VALUES ('proj_1', 'Test', 'org', 'org')"
        )
        for status in ("cancelled", "paused"):
            connection.execute(
                "INSERT INTO jobs (id, project_id, organization_id, organization_slug, status, model,"
                " base_model, training_file, method, hyperparameters, seed, result_files, lease_token,"
                " attempt, crashes, resume_points)"
                " VALUES (%s, 'proj_1', 'org', 'org', %s, 'm', 'm', 'file-1', 'supervised', '{}', 1,"
                " '[]', 0, 0, 0, '[]')",
                (status, status),
            )
            connection.execute(
                "INSERT INTO events (id, job_id, key, level, type, message, created_at)"
                " VALUES (%s, %s, %s, 'info', 'message', '', '2026-01-02T03:04:05Z')",
                (status, status, status),
            )
    upgrade(empty_url)
    with psycopg.connect(empty_url) as connection:
        found = connection.execute(
            "SELECT status, finished_at = '2026-01-02T03:04:05Z' FROM jobs ORDER BY status"
        ).fetchall()
    assert found == [("cancelled", True), ("paused", None)]


@pytest.mark.slow
def test_processes_that_upgrade_at_once_all_succeed(empty_url: str) -> None:
    env = {**os.environ, "LUTHIER_DATABASE_URL": empty_url}
    processes = [subprocess.Popen([sys.executable, "-m", "migrations"], env=env) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert tables(empty_url) == TABLES | {"alembic_version"}
    engine = sync_engine(empty_url, at_other_schema=None)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1
    engine.dispose()
