from __future__ import annotations

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from api.database import Database
from foundation.errors import Unavailable
from migrations.upgrade import config
from storage import database as databases
from storage import schema
from storage.database import check_schema, sync_engine
from storage.schema import OtherSchema


def set_revision(database_url: str, revision: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (revision,))


def test_revision_is_the_newest_migrations() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == schema.REVISION


@pytest.mark.parametrize(
    ("revision", "advice"), [("0001", "migrations` from this"), ("9999", "older than")]
)
def test_engine_refuses_a_database_of_another_revision(
    database_url: str, revision: str, advice: str
) -> None:
    set_revision(database_url, revision)
    engine = sync_engine(database_url)
    with pytest.raises(OtherSchema, match=advice) as refused:
        engine.connect()
    line = str(refused.value)
    assert "\n" not in line
    assert all(
        word in line for word in (revision, schema.REVISION, "python -m migrations", "start again")
    )
    with pytest.raises(OtherSchema):
        check_schema(engine)
    set_revision(database_url, schema.REVISION)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_engine_refuses_a_database_that_was_never_migrated(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE alembic_version")
    engine = sync_engine(database_url)
    with pytest.raises(OtherSchema, match="revision none"):
        engine.connect()
    engine.dispose()


def test_connection_that_is_open_already_is_refused_after_a_migration(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sync_engine(database_url)
    engine.connect().close()
    set_revision(database_url, "9999")
    engine.connect().close()  # looked at less than a second ago
    monkeypatch.setattr(databases, "LOOK_EVERY_S", 0.0)
    with pytest.raises(OtherSchema):
        engine.connect()
    engine.dispose()


@pytest.mark.parametrize("way", ["run", "read"])
async def test_the_apis_connections_are_looked_at_too(
    database_url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    ask = getattr(database, way)
    assert await ask(lambda session: session.scalar(text("SELECT 1"))) == 1
    set_revision(database_url, "9999")
    monkeypatch.setattr(databases, "LOOK_EVERY_S", 0.0)
    with pytest.raises(OtherSchema):
        await ask(lambda session: session.scalar(text("SELECT 1")))
    await database.close()


def test_outage_is_no_other_schema() -> None:
    engine = sync_engine("postgresql://127.0.0.1:1/nothing")
    check_schema(engine)
    engine.dispose()


def test_inference_server_refuses_a_gateway_of_another_revision() -> None:
    schema.check_caller(None)
    schema.check_caller(schema.REVISION)
    with pytest.raises(Unavailable, match=r"0001.*python -m migrations"):
        schema.check_caller("0001")
