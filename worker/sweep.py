"""The worker's sweep rings for jobs."""

from __future__ import annotations

from storage import queue
from storage.jobs.jobs import JobRow
from storage.sweep import Sweep

from .worker import Worker

LOCK = 7_021_530_913


def of_jobs(worker: Worker) -> Sweep:
    return Sweep(
        worker,
        JobRow,
        queue_name=queue.TRAIN_QUEUE,
        ring=queue.ring,
        limit=queue.MAX_RINGS,
        lock=LOCK,
        interval_s=10.0,
    )
