from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from embedded import postgres as postgres_module
from embedded.postgres import Postgres
from embedded.process import CannotStart

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another uid")


@contextmanager
def connected(postgres: Postgres) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        yield connection


def test_data_outlives_a_crash(tmp_path: Path, new_cluster: Callable[[Path], Path]) -> None:
    postgres = Postgres(new_cluster(tmp_path / "postgres"), fsync=False)
    with postgres.running(tmp_path / "log"), connected(postgres) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        lock = (postgres.directory / "postmaster.pid").read_text()
    # As after a crash and a reboot: the recorded pid now belongs to an unrelated process.
    _, _, rest = lock.partition("\n")
    (postgres.directory / "postmaster.pid").write_text(f"{os.getpid()}\n{rest}")
    with postgres.running(tmp_path / "log"), connected(postgres) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_sorts_alike_on_every_machine_and_listens_on_no_port(postgres: Postgres) -> None:
    with connected(postgres) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        rows = connection.execute("SELECT unnest(array['b', 'a', 'B', '\u00e4']) AS c ORDER BY c")
        assert [row[0] for row in rows] == ["B", "a", "b", "\u00e4"]
        assert connection.execute("SELECT upper('\u00e4')").fetchone() == ("\u00c4",)


def test_only_the_owner_can_enter_the_cluster(postgres: Postgres) -> None:
    status = postgres.directory.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid != 0


@as_root
def test_root_opens_nobodys_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The worst case: data and environment both lie where only root may go, and files are born private.
    monkeypatch.setattr(postgres_module, "_others_can_reach", lambda _path: False)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    before = {path: path.stat().st_mode for path in (private, *private.parents)}
    postgres = Postgres(private / "postgres", fsync=False)
    umask = os.umask(0o077)
    try:
        with postgres.running(tmp_path / "log"), connected(postgres) as connection:
            connection.execute("SELECT 1")
            (copy,) = Path(tempfile.gettempdir()).glob(f"{postgres._temporary_prefix()}*")
    finally:
        os.umask(umask)
    assert not copy.exists()
    assert {path: path.stat().st_mode for path in before} == before


@as_root
@pytest.mark.skipif(
    not postgres_module._others_can_reach(Path(sys.executable).resolve()),
    reason="this Python lies where only root may go",
)
def test_an_ordinary_user_runs_it_under_the_own_uid(tmp_path: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="luthier-user-"))
    os.chown(directory, 65534, 65534)
    code = (
        "import os, sys; from pathlib import Path; from embedded.postgres import Postgres\n"
        "d = Path(sys.argv[1]); p = Postgres(d / 'postgres', fsync=False)\n"
        "with p.running(d / 'log'): print(p.directory.stat().st_uid == os.geteuid())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(directory)],
            user=65534,
            group=65534,
            extra_groups=[],
            env={"HOME": str(directory), "PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(directory)
    assert done.stdout == "True\n", done.stderr


def test_long_path_with_odd_signs_gets_a_short_socket(
    tmp_path: Path, new_cluster: Callable[[Path], Path]
) -> None:
    directory = tmp_path / ("a long & odd?=% one " * 6) / "postgres"
    postgres = Postgres(new_cluster(directory), fsync=False)
    with postgres.running(tmp_path / "log"), connected(postgres) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        (short,) = Path(tempfile.gettempdir()).glob(f"{postgres._temporary_prefix()}*")
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
    assert not short.exists()


def test_killed_initdb_is_begun_again(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres.new-1"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    postgres = Postgres(tmp_path / "postgres", fsync=False)
    with postgres.running(tmp_path / "log"), connected(postgres) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not unfinished.exists()


def test_cluster_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(CannotStart, match="made by PostgreSQL 16"):
        Postgres(tmp_path / "postgres").prepare()
