"""Bring a database up to date; safe to call from several processes at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from storage.database import sync_engine
from storage.schema import REVISION, OtherSchema

# Any number will do, as long as everybody who migrates uses the same.
LOCK = 7_021_530_911


def config() -> Config:
    return Config(Path(__file__).with_name("alembic.ini"))


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing, under an advisory lock, so that one process does it.

    Raises OtherSchema if the database has migrations that this code does not know.
    """
    engine = sync_engine(database_url, at_other_schema=None)
    alembic = config()
    try:
        _upgrade(engine, alembic, revision)
    finally:
        engine.dispose()


def _upgrade(engine: Engine, alembic: Config, revision: str) -> None:
    with engine.connect() as lock, engine.connect() as connection:
        # A migration may take longer than a request may.
        for each in (lock, connection):
            each.execute(text("SET statement_timeout = 0"))
        lock.execute(text("SET lock_timeout = 0"))
        lock.execute(text("SET idle_in_transaction_session_timeout = 0"))
        lock.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        found = MigrationContext.configure(connection).get_current_revision()
        if found is not None and found > REVISION:
            raise OtherSchema(found)
        connection.commit()
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, revision)
        lock.rollback()
