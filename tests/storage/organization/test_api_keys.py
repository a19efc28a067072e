from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from foundation.errors import InvalidRequest
from storage.organization import api_keys
from storage.organization.api_keys import ApiKeyRow
from storage.organization.projects import ProjectRow

Database = sessionmaker[Session]


def add_key(session: Session, project_id: str | None) -> str:
    kind: api_keys.Kind = "project" if project_id else "admin"
    key = api_keys.new_key(kind)
    api_keys.create(session, key, kind=kind, name="Test", project_id=project_id)
    return key


def test_keys_say_their_kind_and_are_never_the_same() -> None:
    assert re.fullmatch(r"sk-proj-\w{32}", api_keys.new_key("project"))
    assert re.fullmatch(r"sk-admin-\w{32}", api_keys.new_key("admin"))
    assert len({api_keys.new_key("project") for _ in range(100)}) == 100


def test_key_gives_its_caller_and_is_not_stored(database: Database, project_id: str) -> None:
    with database.begin() as session:
        key = add_key(session, project_id)
        caller = api_keys.find_caller(session, key)
        row = session.scalar(select(ApiKeyRow))
    assert caller is not None
    assert (caller.kind, caller.project_id, caller.organization_slug) == (
        "project",
        project_id,
        "luthier",
    )
    assert row is not None
    assert row.hint == key[-4:]
    assert key not in str(vars(row))


def test_admin_key_belongs_to_no_project(database: Database) -> None:
    with database.begin() as session:
        caller = api_keys.find_caller(session, add_key(session, None))
    assert caller is not None
    assert (caller.kind, caller.project_id) == ("admin", "")


def test_unknown_and_strange_keys_are_nobodys(database: Database, project_id: str) -> None:
    with database.begin() as session:
        key = add_key(session, project_id)
        for wrong in ("", key[:-1], key.upper(), "sk-\udcff", "k" * 10_000):
            assert api_keys.find_caller(session, wrong) is None


def test_dead_keys_are_nobodys(database: Database, project_id: str) -> None:
    for dead in ({"revoked_at": func.now()}, {"expires_at": func.now()}):
        with database.begin() as session:
            key = add_key(session, project_id)
            session.execute(
                update(ApiKeyRow).where(ApiKeyRow.sha256 == api_keys.digest(key)).values(**dead)
            )
            assert api_keys.find_caller(session, key) is None
    with database.begin() as session:
        key = add_key(session, project_id)
        assert api_keys.find_caller(session, key) is not None
        session.execute(update(ProjectRow).values(archived_at=func.now()))
        assert api_keys.find_caller(session, key) is None


def test_use_is_noted_once_a_minute_at_most(database: Database, project_id: str) -> None:
    with database.begin() as session:
        key = add_key(session, project_id)

    def used_at() -> object:
        with database.begin() as session:
            api_keys.find_caller(session, key)
        with database() as session:
            return session.scalar(select(ApiKeyRow.last_used_at))

    first = used_at()
    assert first is not None
    assert used_at() == first
    with database.begin() as session:
        a_while_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 2)
        session.execute(update(ApiKeyRow).values(last_used_at=a_while_ago))
    assert used_at() != first


def test_last_admin_key_that_works_cannot_be_revoked(database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        ids = [
            api_keys.create(
                session,
                api_keys.new_key("admin"),
                kind="admin",
                name="Test",
                project_id=None,
                expires_in_s=expires_in_s,
            ).id
            for expires_in_s in (None, None, -1)
        ]
    with database.begin() as session:
        api_keys.revoke_admin(session, ids[0])
    with database.begin() as session, pytest.raises(InvalidRequest, match="last admin key"):
        # The third has expired: it could not make another.
        api_keys.revoke_admin(session, ids[1])
    with database.begin() as session:
        api_keys.revoke_admin(session, ids[2])


def test_two_who_revoke_the_last_two_admin_keys_leave_one(
    database: sessionmaker[Session],
) -> None:
    with database.begin() as session:
        ids = [
            api_keys.create(
                session, api_keys.new_key("admin"), kind="admin", name="Test", project_id=None
            ).id
            for _ in range(2)
        ]

    def revoke(key_id: str) -> bool:
        try:
            with database.begin() as session:
                api_keys.revoke_admin(session, key_id)
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(revoke, ids)) == [False, True]
