from __future__ import annotations

import math
import threading

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from storage import transactions
from storage.database import sessions, sync_engine
from storage.transactions import Transaction, Undecided

Database = sessionmaker[Session]


@pytest.fixture
def counter(database: Database) -> None:
    with database.begin() as session:
        session.execute(text("CREATE TABLE counter (n integer)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))


def count(session: Session) -> int:
    return int(session.scalars(text("UPDATE counter SET n = n + 1 RETURNING n")).one())


def counted(database: Database) -> int:
    with database() as session:
        return int(session.scalars(text("SELECT n FROM counter")).one())


@pytest.mark.usefixtures("counter")
def test_commit_that_goes_on_without_its_client_is_waited_for_and_not_repeated(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "RETRY_S", 0.01)
    with database.begin() as session:
        # The commit takes as long as somebody else holds a lock.
        session.execute(
            text(
                "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
            )
        )
        session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON counter "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()"
            )
        )
    engine = sync_engine(database_url)
    commit = engine.dialect.do_commit
    runs: list[int] = []

    def break_off(connection: psycopg.Connection) -> None:
        monkeypatch.setattr(engine.dialect, "do_commit", commit)
        connection.pgconn.send_query(b"COMMIT")
        connection.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    def work(session: Session) -> int:
        runs.append(count(session))
        return runs[-1]

    monkeypatch.setattr(
        engine.dialect, "do_commit", lambda connection: break_off(connection.dbapi_connection)
    )
    transaction = Transaction(sessions(engine), work)
    with database.begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(7)"))
        with pytest.raises(OperationalError):
            transaction.attempt()
        with pytest.raises(Undecided):
            transaction.attempt()
    assert transaction.run(lambda: math.inf) == 1
    assert runs == [1]
    assert counted(database) == 1
    engine.dispose()


@pytest.mark.usefixtures("counter")
def test_work_that_breaks_off_before_its_commit_is_done_again(database: Database) -> None:
    runs: list[int] = []

    def work(session: Session) -> int:
        runs.append(count(session))
        if len(runs) == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return runs[-1]

    assert Transaction(database, work).run(lambda: math.inf) == 1
    assert runs == [1, 1]
    assert counted(database) == 1


@pytest.mark.usefixtures("counter")
def test_error_of_the_work_is_raised_and_nothing_is_written(database: Database) -> None:
    def work(session: Session) -> None:
        count(session)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        Transaction(database, work).run(lambda: math.inf)
    assert counted(database) == 0


def test_transaction_is_given_up_when_it_is_too_late(database_url: str) -> None:
    nowhere = sessions(sync_engine("postgresql://127.0.0.1:1/nothing"))
    tries = threading.Semaphore(2)

    def check() -> float:
        if not tries.acquire(blocking=False):
            raise TimeoutError
        return math.inf

    with pytest.raises(TimeoutError):
        Transaction(nowhere, lambda _: None).run(check)
