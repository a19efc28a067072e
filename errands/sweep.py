"""The errands' sweep: rings for what a lost message or a crash left undone, every few seconds.

Any number of processes may run one; an advisory lock lets one at a time do the work. Blobs that nobody needs
any more are taken away on a thread of its own, for that may take as long as the blob store likes.
"""

from __future__ import annotations

from errands.batches import output as batch_output
from storage import queue
from storage.inference import batches
from storage.rounds import Rounds, try_lock

from .errands import BATCH_SLOTS, Errands

# Any number will do, as long as every errands process uses the same.
_LOCK = 7_021_530_914


class ErrandsSweep(Rounds):
    name = "errands_sweep"
    interval_s = 5.0

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands

    def once(self) -> None:
        self._errands.bury_dead()
        with self._errands.sessions.begin() as session:
            if not try_lock(session, _LOCK):
                return
            runnable = batches.runnable(session, BATCH_SLOTS)
        # Whoever hears a message takes the batch whose turn it is, so those that wait in the queue count.
        if runnable:
            for batch_id in runnable[queue.depth(queue.ERRANDS_QUEUE) :]:
                queue.run_errand(queue.RUN_BATCH, batch_id)


class BatchLitter(Rounds):
    name = "batch_litter"
    interval_s = 30.0

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands

    def once(self) -> None:
        batch_output.remove_litter(self._errands)
