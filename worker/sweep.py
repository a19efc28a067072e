"""The sweep: finds what a lost message, a crash or a cancel left undone, every few seconds.

It decides nothing: it rings for jobs that somebody may claim. Any number of workers may run one; an advisory
lock lets one at a time do the work. What is to be taken away is the business of `worker.litter`, on another
thread, for that may take as long as the blob store likes.
"""

from __future__ import annotations

from storage import queue
from storage.jobs import jobs
from storage.rounds import Rounds, try_lock

from .worker import Worker

# Any number will do, as long as every worker uses the same.
_LOCK = 7_021_530_913


class Sweep(Rounds):
    name = "sweep"
    interval_s = 10.0

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def once(self) -> None:
        self._worker.bury_dead()
        with self._worker.sessions.begin() as session:
            if not try_lock(session, _LOCK):
                return
            runnable = jobs.runnable(session, limit=queue.MAX_RINGS)
        # Whoever gets a message takes the job whose turn it is: only their number matters.
        for job_id in runnable[queue.depth() :]:
            queue.ring(job_id)
