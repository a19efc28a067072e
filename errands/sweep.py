"""The errands' sweep rings for batches, and blobs that no batch needs any more are taken away."""

from __future__ import annotations

from functools import partial

from errands.batches import output as batch_output
from storage import queue
from storage.inference.batches import BatchRow
from storage.rounds import Rounds
from storage.sweep import Sweep

from .errands import BATCH_SLOTS, Errands

_LOCK = 7_021_530_914


def of_batches(errands: Errands) -> Sweep:
    return Sweep(
        errands,
        BatchRow,
        queue_name=queue.ERRANDS_QUEUE,
        ring=partial(queue.run_errand, queue.RUN_BATCH),
        limit=BATCH_SLOTS,
        lock=_LOCK,
        interval_s=5.0,
    )


class BatchCleanup(Rounds):
    name = "batch_cleanup"
    interval_s = 30.0

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands

    def once(self) -> None:
        batch_output.clean_up(self._errands)
