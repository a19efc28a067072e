"""The sweep: finds what a lost message, a crash or a cancel left undone, every few seconds.

It decides nothing: it rings for rows that somebody may claim. Any number of processes may run one; an
advisory lock lets one at a time do the work. What is to be taken away is the business of a cleanup, on another
thread, for that may take as long as the blob store likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog
from sqlalchemy.orm import Session, sessionmaker

from storage import leases, queue
from storage.leases import Leased
from storage.rounds import Rounds, try_lock
from storage.worker_folder import Folder

log = structlog.get_logger()


class LeaseOwner(Protocol):
    """A process that works on rows under its folder's name: a worker, or the errands."""

    sessions: sessionmaker[Session]
    folder: Folder


class Sweep(Rounds):
    name = "sweep"

    def __init__(
        self,
        owner: LeaseOwner,
        kind: type[Leased],
        *,
        queue_name: str,
        ring: Callable[[str], object],
        limit: int,
        lock: int,
        interval_s: float,
        frees: tuple[type[Leased], ...] = (),
    ) -> None:
        """`lock`: any number will do, as long as every process uses the same for the kind of row.

        `frees` are all the kinds that such owners work on, if that is more than one: a dead owner is found once.
        """
        super().__init__()
        self.interval_s = interval_s
        self._owner = owner
        self._kind = kind
        self._frees = frees or (kind,)
        self._queue_name = queue_name
        self._ring = ring
        self._limit = limit
        self._lock = lock

    def once(self) -> None:
        free_leases_of_dead(self._owner, *self._frees)
        with self._owner.sessions.begin() as session:
            if not try_lock(session, self._lock):
                return
            runnable = leases.runnable(session, self._kind, self._limit)
        # Whoever hears a message takes the row whose turn it is, so those that wait in the queue count.
        if runnable:
            for id in runnable[queue.depth(self._queue_name) :]:
                self._ring(id)


def free_leases_of_dead(owner: LeaseOwner, *kinds: type[Leased]) -> None:
    """Free at once what processes of the same data directory held when they were killed."""
    with owner.folder.dead() as names:
        if names:
            with owner.sessions.begin() as session:
                for kind in kinds:
                    leases.expire(session, kind, names)
            log.info("sweep.freed_leases_of_dead", names=names)
