"""How Alembic reaches the database: the connection it is handed, or LUTHIER_DATABASE_URL."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from foundation.settings import Settings
from storage import rows
from storage.database import sync_engine


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=rows.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


handed: Connection | None = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
else:
    engine = sync_engine(
        Settings.from_env().require("database_url").database_url, at_other_schema=None
    )
    with engine.connect() as own:
        run(own)
    engine.dispose()
