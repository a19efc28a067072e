"""The data directory: one server at a time, private, on a disk with room."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .process import CannotStart

MIN_FREE_BYTES = 512 << 20


@contextmanager
def locked(data_dir: Path) -> Iterator[bool]:
    """Hold `data_dir` (created when missing) for this process; gives whether the last one was killed.

    Raises CannotStart with one clear line when the directory cannot be used.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CannotStart(f"cannot write to {data_dir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(lock, 20).decode().strip()
            raise CannotStart(
                f"{data_dir} is already in use by another server (pid {holder})"
            ) from error
        _check_disk(data_dir)
        was_killed = os.fstat(lock).st_size > 0
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        try:
            yield was_killed
        finally:
            os.ftruncate(lock, 0)
    finally:
        os.close(lock)


def _check_disk(data_dir: Path) -> None:
    free_bytes = shutil.disk_usage(data_dir).free
    if free_bytes < MIN_FREE_BYTES:
        raise CannotStart(
            f"the disk of {data_dir} has only {free_bytes >> 20} MiB left; "
            f"at least {MIN_FREE_BYTES >> 20} MiB are needed"
        )
