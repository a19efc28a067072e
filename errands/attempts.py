"""One attempt at an errand, whatever it is: from the message to its end, to the process's end, or to somebody else's turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import structlog
from sqlalchemy.orm import Session

from errands.errands import Errands
from errands.model_process import ProcessDied
from errands.patience import Patience
from foundation.crash_points import crash_point
from foundation.errors import DISK_FULL, BlobError, Unavailable
from storage import leases, queue
from storage.leases import Claim, Leased, LostLease, R, Stopped
from storage.transactions import OUT_OF_REACH, Transaction

STORAGE_RETRY_S = 15.0
MAX_CRASHES = 3
"""In a row, after which most errands are given up."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Errand(Generic[R]):
    """What is particular to a kind of them."""

    noun: str
    task: str
    """Of the messages that say that there is one."""
    row: type[R]
    take: Callable[[Session, str], Claim[R] | None]
    """For an owner the one whose turn it is, if there is a slot for it."""
    work: Callable[[Errands, Claim[R], Path], None]
    """In a folder of its own. Every step finds out what an earlier attempt has done already."""
    crash_retry_s: float
    gives_way: tuple[type[Exception], ...] = ()
    """What `work` raises to make room for another one."""
    waits_for: tuple[type[Exception], ...] = ()
    """What it raises where it can do nothing about it, beside what is out of reach."""
    afterwards: Callable[[Errands, Claim[R]], None] = lambda _errands, _claim: None
    """Once the lease is given back."""


def run(errands: Errands, errand: Errand[R], row_id: str) -> None:
    """Somebody rang for `row_id`: work on the one whose turn it is."""
    if errands.is_stopping.is_set():
        # The message is spent; the next process wants another.
        queue.run_errand(errand.task, row_id)
        return
    claiming = Transaction(errands.sessions, lambda session: errand.take(session, errands.name))
    claim = claiming.run(Patience(errands).check)
    if claim is None:
        return  # the next one to let go of its slot rings
    crash_point(f"after_{errand.noun}_claim")
    try:
        _attempt(errands, errand, claim)
    finally:
        errand.afterwards(errands, claim)
    with errands.sessions() as session:
        for next_id in leases.runnable(session, errand.row, limit=1):
            queue.run_errand(errand.task, next_id)


def given_up(row: Leased, what: str = "It", max_crashes: int = MAX_CRASHES) -> str | None:
    """What an errand fails with that the server has failed at too often in a row; None if it may be tried again."""
    if row.crashes < max_crashes:
        return None
    return f"{what} was given up after {row.crashes} failures of the server in a row."


@contextmanager
def failing(noun: str, row_id: str, fail: Callable[[str, str], None]) -> Iterator[None]:
    """Work with a process and files, within. What the stores and the disk did to it ends the errand, by `fail` with a code
    and a message; a process that died is one more failure of the server.
    """
    try:
        yield
    except BlobError as error:
        log.error(f"{noun}.blob_damaged", id=row_id, error=str(error))
        fail("server_error", "What is stored of the model or the file is damaged.")
    except ProcessDied as error:
        log.warning(f"{noun}.process_died", id=row_id, error=str(error))
        raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        fail("storage_full", "The server's disk is full.")


def _attempt(errands: Errands, errand: Errand[R], claim: Claim[R]) -> None:
    """Do it, and give the lease back unless that ended it."""
    told = {"errand": errand.noun, "id": claim.row.id}
    gives_way: tuple[type[Exception], ...] = (LostLease, Stopped, *errand.gives_way)
    waits_for: tuple[type[Exception], ...] = (Unavailable, *OUT_OF_REACH, *errand.waits_for)
    try:
        # Not the row's alone: another thread of this process may still hold on to a lost lease.
        with errands.folder.job(f"{claim.row.id}-{claim.lease_token}") as folder:
            errand.work(errands, claim, folder)
        log.info("errand.done", **told)
    except gives_way as reason:
        # A lease is also given up when the row was cancelled in the moment of another ending.
        log.info("errand.let_go", **told, reason=type(reason).__name__)
        _release(errands, errand, claim)
    except waits_for as error:
        # It can do nothing about it, and waits for it as long as it takes.
        log.warning("errand.storage_unavailable", **told, error=str(error))
        _release(errands, errand, claim, after_s=STORAGE_RETRY_S)
    except Exception:
        log.exception("errand.unexpected_error", **told)
        _release(errands, errand, claim, after_s=errand.crash_retry_s, is_crash=True)


def _release(
    errands: Errands,
    errand: Errand[R],
    claim: Claim[R],
    *,
    after_s: float = 0,
    is_crash: bool = False,
) -> None:
    is_free = errands.let_go(claim, after_s=after_s, is_crash=is_crash)
    if is_free and errands.is_stopping.is_set():
        queue.run_errand(errand.task, claim.row.id)
