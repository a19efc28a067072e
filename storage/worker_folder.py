"""The own folder of a worker or of an errands process, `DATA/worker/<name>/`, with a lock that its death releases.

The name is the process's name in leases. Whoever can take the lock of another's folder knows that its
process is dead, and may tidy up after it at once instead of waiting for its leases to run out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.ids import random_name

_LOCK = "lock"


class Folder:
    """Scratch space: what is in it is worth nothing once the worker is gone."""

    def __init__(self, workers_dir: Path) -> None:
        workers_dir.mkdir(parents=True, exist_ok=True)
        self._workers_dir = workers_dir.resolve()
        self.name = f"{os.uname().nodename}-{os.getpid()}-{random_name(8)}"
        self.path = self._workers_dir / self.name
        # The lock is taken before the folder has its name, so that nobody takes it for a dead one's.
        unnamed = self._workers_dir / f".{self.name}"
        unnamed.mkdir()
        lock = _try_lock(unnamed / _LOCK)
        assert lock is not None
        self._lock = lock
        unnamed.rename(self.path)

    @contextmanager
    def job(self, job_id: str) -> Iterator[Path]:
        """An empty folder for one attempt at a job, gone afterwards."""
        path = self.path / job_id
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def dead(self) -> Iterator[list[str]]:
        """The names of workers that are no more; inside, they are nobody else's to tidy up after.

        Their folders are gone afterwards, unless an exception leaves the work to the next who looks.
        """
        locks = {}
        for path in self._workers_dir.iterdir():
            if path == self.path or path.name.startswith(".") or not path.is_dir():
                continue
            lock = _try_lock(path / _LOCK)
            if lock is not None:
                locks[path.name] = lock
        try:
            yield list(locks)
            for name in locks:
                shutil.rmtree(self._workers_dir / name, ignore_errors=True)
        finally:
            for lock in locks.values():
                os.close(lock)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None when somebody else does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        # Its folder was taken away in this moment.
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
