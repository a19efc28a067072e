from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

from embedded.postgres import Postgres
from migrations.upgrade import config, upgrade
from storage import rows
from storage.database import sync_engine

TABLES = set(rows.metadata.tables)


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """A database without a table."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE to_migrate")
        yield postgres.url("to_migrate")
        connection.execute("DROP DATABASE to_migrate WITH (FORCE)")


def tables(url: str) -> set[str]:
    engine = sync_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def with_connection(url: str, run: str, *arguments: str) -> None:
    """An Alembic command on a connection of ours, as `upgrade` hands it one."""
    engine = sync_engine(url)
    alembic: Config = config()
    with engine.connect() as connection:
        alembic.attributes["connection"] = connection
        getattr(command, run)(alembic, *arguments)
    engine.dispose()


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


@pytest.mark.slow
def test_processes_that_upgrade_at_once_all_succeed(empty_url: str) -> None:
    env = {**os.environ, "LUTHIER_DATABASE_URL": empty_url}
    processes = [subprocess.Popen([sys.executable, "-m", "migrations"], env=env) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert tables(empty_url) == TABLES | {"alembic_version"}
    engine = sync_engine(empty_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1
    engine.dispose()
