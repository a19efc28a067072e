"""Bring a database up to date; safe to call from several processes at once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from storage.database import sync_engine

# Any number will do, as long as everybody who migrates uses the same.
LOCK = 7_021_530_911


def config() -> Config:
    return Config(Path(__file__).with_name("alembic.ini"))


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the migrations that are missing, under an advisory lock, so that one process does it."""
    engine = sync_engine(database_url)
    alembic = config()
    with engine.connect() as lock, engine.connect() as connection:
        # A migration may take longer than a request may.
        for each in (lock, connection):
            each.execute(text("SET statement_timeout = 0"))
        lock.execute(text("SET lock_timeout = 0"))
        lock.execute(text("SET idle_in_transaction_session_timeout = 0"))
        lock.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        connection.commit()
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, revision)
        lock.rollback()
    engine.dispose()
