from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from storage.organization import api_keys, first_keys
from storage.organization.api_keys import ApiKeyRow
from storage.organization.projects import ProjectRow

Database = sessionmaker[Session]


def ensure(database: Database, data_dir: Path, **env: str) -> tuple[str, str]:
    """The project's key and the admin's."""
    with database.begin() as session:
        first_keys.ensure(session, data_dir, first_keys.PresetKeys.from_env(env))
    return (data_dir / "api_key").read_text().strip(), (data_dir / "admin_key").read_text().strip()


def count(database: Database, row: type[ApiKeyRow] | type[ProjectRow]) -> int:
    with database() as session:
        return session.scalar(select(func.count()).select_from(row)) or 0


def test_first_start_makes_a_project_and_private_key_files(
    database: Database, tmp_path: Path
) -> None:
    api_key, admin_key = ensure(database, tmp_path)
    for name in ("api_key", "admin_key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with database.begin() as session:
        project, admin = (api_keys.find_caller(session, key) for key in (api_key, admin_key))
    assert project is not None
    assert project.kind == "project"
    assert project.project_id
    assert admin is not None
    assert admin.kind == "admin"


def test_later_starts_change_nothing(database: Database, tmp_path: Path) -> None:
    first = ensure(database, tmp_path)
    assert ensure(database, tmp_path) == first
    assert (count(database, ApiKeyRow), count(database, ProjectRow)) == (2, 1)


def test_preset_keys_are_taken_and_older_ones_stay_good(database: Database, tmp_path: Path) -> None:
    old, _ = ensure(database, tmp_path)
    preset = ensure(
        database, tmp_path, LUTHIER_API_KEY="sk-mine", LUTHIER_ADMIN_KEY="sk-admin-mine"
    )
    assert preset == ("sk-mine", "sk-admin-mine")
    with database.begin() as session:
        for key in (old, "sk-mine", "sk-admin-mine"):
            assert api_keys.find_caller(session, key) is not None


def test_key_file_of_another_database_is_taken_over(database: Database, tmp_path: Path) -> None:
    """The database was lost, the data directory was not: clients keep their key."""
    (tmp_path / "api_key").write_text("sk-proj-kept\n")
    api_key, _ = ensure(database, tmp_path)
    assert api_key == "sk-proj-kept"
    with database.begin() as session:
        assert api_keys.find_caller(session, "sk-proj-kept") is not None


def test_processes_that_start_at_once_agree(database_url: str, tmp_path: Path) -> None:
    env = {
        **os.environ,
        "LUTHIER_DATABASE_URL": database_url,
        "LUTHIER_DATA_DIR": str(tmp_path / "data"),
    }
    command = [sys.executable, "-m", "storage.organization.first_keys"]
    processes = [subprocess.Popen(command, env=env) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "data" / "api_key").read_text().startswith("sk-proj-")
