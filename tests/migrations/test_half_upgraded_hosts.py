"""A process whose code is of another schema version than the database refuses to work, with one line."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from foundation import leash
from migrations.upgrade import upgrade
from storage import queue
from storage.schema import REVISION, OtherSchema
from tests.storage.test_schema import set_revision
from tests.worker.scene import wait_for

NEWER, OLDER = "9999", "0001"


@pytest.fixture
def env(tmp_path: Path, database_url: str, broker_url: str, blob_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "LUTHIER_DATABASE_URL": database_url,
        "LUTHIER_BROKER_URL": broker_url,
        "LUTHIER_BLOB_URL": blob_url,
        "LUTHIER_DATA_DIR": str(tmp_path / "data"),
        "LUTHIER_BASES_DIR": str(tmp_path / "bases"),
        "LUTHIER_API_URL": "http://127.0.0.1:1",
        "LUTHIER_INTERNAL_KEY": "internal",
    }


@pytest.mark.parametrize(
    ("module", "revision"),
    [
        ("api", OLDER),
        ("worker", NEWER),
        # Like the worker.
        pytest.param("errands", OLDER, marks=pytest.mark.slow),
        pytest.param("api", NEWER, marks=pytest.mark.slow),
        pytest.param("worker", OLDER, marks=pytest.mark.slow),
        pytest.param("errands", NEWER, marks=pytest.mark.slow),
        pytest.param("storage.organization.first_keys", NEWER, marks=pytest.mark.slow),
    ],
)
def test_process_does_not_start(
    env: dict[str, str], database_url: str, module: str, revision: str
) -> None:
    set_revision(database_url, revision)
    ended = subprocess.run(
        [sys.executable, "-m", module, *(["--port", "0"] if module == "api" else [])],
        env=env,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert ended.returncode
    assert ended.stderr.decode() == f"{OtherSchema(revision)}\n"


@pytest.mark.parametrize(
    ("module", "revision"),
    [("worker", NEWER), pytest.param("errands", OLDER, marks=pytest.mark.slow)],
)
def test_process_that_was_left_running_ends_and_takes_nothing_more(
    env: dict[str, str],
    database_url: str,
    broker_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    revision: str,
) -> None:
    monkeypatch.setattr(queue.app.conf, "broker_url", broker_url)
    ring = queue.ring if module == "worker" else partial(queue.run_errand, queue.RUN_BATCH)
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**env, leash.ENV: "1"},
            stdin=subprocess.PIPE,
            stderr=errors,
        )
    try:
        with psycopg.connect(database_url, autocommit=True) as connection:
            wait_for(lambda: is_at_work(connection), 60, "the first sweep")
        set_revision(database_url, revision)
        for _ in range(100):
            ring("some-id")  # it looks for work at once, not at the next sweep only
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
                break
        assert process.returncode == 2
    finally:
        process.kill()
        process.communicate()
    assert log.read_text().splitlines()[-1] == str(OtherSchema(revision))
    assert "Traceback" not in log.read_text()


def is_at_work(connection: psycopg.Connection[tuple[int]]) -> bool:
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'luthier'"
        " AND datname = current_database() AND query LIKE '%COMMIT%'"
    ).fetchone()
    return found is not None and found[0] > 0


def test_older_code_does_not_migrate_a_newer_database(env: dict[str, str]) -> None:
    database_url = env["LUTHIER_DATABASE_URL"]
    set_revision(database_url, "9999")
    with pytest.raises(OtherSchema):
        upgrade(database_url)
    ended = subprocess.run([sys.executable, "-m", "migrations"], env=env, capture_output=True)
    assert (ended.returncode, ended.stderr.decode()) == (1, f"{OtherSchema('9999')}\n")
    set_revision(database_url, REVISION)
    upgrade(database_url)
