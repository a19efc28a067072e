"""The database: engines, sessions, and the base of every row.

Rows and queries are written once, for the synchronous `Session`. The worker uses them as they are; the
api, which is asynchronous, calls them through `AsyncSession.run_sync`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import psycopg
from sqlalchemy import BigInteger, DateTime, MetaData, create_engine, event, func, make_url
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import InvalidatePoolError, SQLAlchemyError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from .deadlines import Connection, answered_by
from .schema import REVISION, OtherSchema

LOOK_EVERY_S = 1.0
"""How long a connection is taken for alive, and its database for one of this code's schema."""
START_S = 5.0
"""How long a process that starts waits for the database's word."""

Refusal = Callable[[OtherSchema], None]

Timestamp = Annotated[datetime, mapped_column(DateTime(timezone=True))]
CreatedAt = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())
]
Int64 = Annotated[int, mapped_column(BigInteger)]
Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        Json: JSONB(none_as_null=True),
        list[str]: JSONB(none_as_null=True),
        list[Json]: JSONB(none_as_null=True),
    }


def psycopg_url(url: str) -> URL:
    """`postgres://…` and `postgresql://…` name no driver; the one we use is psycopg 3."""
    parsed = make_url(url.replace("postgres://", "postgresql://", 1))
    return parsed.set(drivername="postgresql+psycopg")


@dataclass(frozen=True)
class TimeLimits:
    """What the server is told to give up by itself. A server that hangs does not: who must not wait for
    one needs a deadline of its own: `storage.deadlines` for threads, `api/database.py` for the api's tasks.
    """

    statement_ms: int
    lock_ms: int


REQUEST_LIMITS = TimeLimits(statement_ms=3_500, lock_ms=3_000)
"""Somebody waits for the reply. Shorter than the api's deadline, so a slow query says that it was slow."""
WORK_LIMITS = TimeLimits(statement_ms=15_000, lock_ms=5_000)


def _engine_options(limits: TimeLimits) -> dict[str, Any]:
    # Nothing waits without an end.
    options = (
        f"-c statement_timeout={limits.statement_ms} -c lock_timeout={limits.lock_ms} "
        "-c idle_in_transaction_session_timeout=60000"
    )
    return {
        "pool_recycle": 1800,
        "pool_timeout": 15,
        "connect_args": {
            "options": options,
            "connect_timeout": 5,
            # A server that vanished from the network is noticed in seconds, not in a quarter of an hour:
            # while it has something to acknowledge, and while its answer is waited for.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "application_name": "luthier",
            # PgBouncer in transaction mode knows no prepared statements.
            "prepare_threshold": None,
        },
    }


def refuse(error: OtherSchema) -> None:
    """What a transaction does that finds a database of another schema."""
    raise error


def sync_engine(
    url: str, *, pool_size: int = 4, at_other_schema: Refusal | None = refuse
) -> Engine:
    """Works with a database of this code's schema only, unless `at_other_schema` is None."""
    engine = create_engine(
        psycopg_url(url), pool_size=pool_size, max_overflow=2, **_engine_options(WORK_LIMITS)
    )
    _look_at_connections(engine, at_other_schema)

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, arguments: Any, options: Any) -> Connection:
        return Connection.connect(*arguments, **options)

    return engine


def async_engine(url: str, *, pool_size: int = 10) -> AsyncEngine:
    engine = create_async_engine(
        psycopg_url(url),
        pool_size=pool_size,
        max_overflow=5,
        **_engine_options(REQUEST_LIMITS),
    )
    _look_at_connections(engine.sync_engine, refuse)
    return engine


def check_schema(engine: Engine) -> None:
    """Look at the database at the moment of starting. Raises OtherSchema; an outage is no reason not to start."""
    with suppress(SQLAlchemyError), answered_by(time.monotonic() + START_S), engine.connect():
        pass


def _look_at_connections(engine: Engine, at_other_schema: Refusal | None) -> None:
    """A database that was restarted costs a reconnect, not an error; one that was migrated is refused.

    SQLAlchemy's own `pool_pre_ping` asks at every use, which doubles the round trips of a poller.
    """

    @event.listens_for(engine, "checkout")
    def look(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        looked_at = record.info.get("looked_at")
        now = time.monotonic()
        if looked_at is not None and now - looked_at < LOOK_EVERY_S:
            return
        try:
            if at_other_schema is None:
                engine.dialect.do_ping(connection)
            elif (found := _revision(connection)) != REVISION:
                at_other_schema(OtherSchema(found))
        except psycopg.Error as error:
            if looked_at is None:
                raise
            # The pool forgets this one and those that are older, and opens another.
            raise InvalidatePoolError from error
        record.info["looked_at"] = now


def _revision(connection: Any) -> str | None:
    """The revision of the database's schema; None when no migration has run yet."""
    was_autocommit = connection.autocommit
    if not was_autocommit:
        connection.autocommit = True
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
        return None if row is None else str(row[0])
    except psycopg.errors.UndefinedTable:
        return None
    finally:
        cursor.close()
        if not was_autocommit and not connection.closed:
            connection.autocommit = was_autocommit


def sessions(engine: Engine) -> sessionmaker[Session]:
    _know_all_tables()
    return sessionmaker(engine, expire_on_commit=False)


def async_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    _know_all_tables()
    return async_sessionmaker(engine, expire_on_commit=False)


def _know_all_tables() -> None:
    """A row can be written only once the tables that it refers to are imported."""
    from . import rows  # noqa: F401
