"""Alembic's commands on a database of a test."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from migrations.upgrade import config
from storage.database import sync_engine


def with_connection(url: str, run: str, *arguments: str) -> None:
    """An Alembic command on a connection of ours, as `upgrade` hands it one."""
    engine = sync_engine(url, at_other_schema=None)
    alembic: Config = config()
    try:
        with engine.connect() as connection:
            alembic.attributes["connection"] = connection
            getattr(command, run)(alembic, *arguments)
    finally:
        engine.dispose()
