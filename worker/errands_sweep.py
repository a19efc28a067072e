"""The errands' sweep: rings for what a lost message or a crash left undone, every few seconds.

Any number of processes may run one; an advisory lock lets one at a time do the work.
"""

from __future__ import annotations

import time

from storage import batches, queue

from . import batch_output
from .errands import Errands
from .rounds import Rounds, try_lock

LITTER_INTERVAL_S = 300.0
# Any number will do, as long as every errands process uses the same.
_LOCK = 7_021_530_914


class ErrandsSweep(Rounds):
    name = "errands_sweep"
    interval_s = 5.0

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands
        self._litter_due_at = time.monotonic()

    def once(self) -> None:
        self._errands.bury_dead()
        with self._errands.sessions.begin() as session:
            if not try_lock(session, _LOCK):
                return
            runnable = batches.runnable(session)
        # What waits in the queue already would only be rung for twice.
        if runnable and queue.depth(queue.ERRANDS_QUEUE) == 0:
            for batch_id in runnable:
                queue.run_errand(queue.RUN_BATCH, batch_id)
        if time.monotonic() >= self._litter_due_at:
            self._litter_due_at = time.monotonic() + LITTER_INTERVAL_S
            batch_output.remove_litter(self._errands)
