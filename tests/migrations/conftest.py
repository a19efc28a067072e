from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from embedded.postgres import Postgres


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """A database without a table."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE to_migrate")
        yield postgres.url("to_migrate")
        connection.execute("DROP DATABASE to_migrate WITH (FORCE)")
