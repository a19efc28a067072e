from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker

from storage.database import sessions, sync_engine
from storage.organization import projects


@pytest.fixture
def database(database_url: str) -> Iterator[sessionmaker[Session]]:
    """Sessions on a database of this test."""
    engine = sync_engine(database_url, pool_size=20)
    yield sessions(engine)
    engine.dispose()


@pytest.fixture
def project_id(database: sessionmaker[Session]) -> str:
    with database.begin() as session:
        return projects.create(session, "Test").id
