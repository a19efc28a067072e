"""A database whose connections break in the middle of a commit, before or after it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
import pytest
from sqlalchemy.engine import Engine

Fate = Literal["answered", "done but not answered", "not done"]
FATES: tuple[Fate, ...] = ("answered", "done but not answered", "not done")


@contextmanager
def commits(engine: Engine, fates: Iterable[Fate]) -> Iterator[None]:
    """What becomes of the engine's commits, one after the other; they are answered when `fates` ends."""
    left = iter(fates)
    commit = engine.dialect.do_commit

    def do_commit(connection: Any) -> None:
        fate = next(left, "answered")
        if fate != "not done":
            commit(connection)
        if fate != "answered":
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("the connection is lost")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.dialect, "do_commit", do_commit)
        yield
