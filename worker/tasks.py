"""What Celery sees of the worker: one task, a slot for each job in its trainer, and the moments of starting and stopping."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog
from celery import signals
from sqlalchemy.exc import SQLAlchemyError

from foundation.errors import LuthierError
from foundation.settings import Settings
from storage import celery_process, queue
from storage.database import check_schema
from storage.jobs.jobs import JobRow
from storage.sweep import Sweep, free_leases_of_dead
from worker.job.run import run

from . import sweep
from .cleanup import Cleanup
from .presence import Presence
from .worker import Worker

log = structlog.get_logger()

# Threads, because the task only waits for the trainer process.
queue.app.conf.update(
    worker_pool="threads",
    worker_concurrency=Settings.from_env().jobs_per_trainer,
    worker_redirect_stdouts=False,
)


class _Process:
    """The worker of this process, between Celery's signals."""

    worker: Worker
    sweep: Sweep
    cleanup: Cleanup
    presence: Presence


@queue.app.task(name=queue.RUN_JOB, max_retries=0)
def run_job(job_id: str) -> None:
    """Look for work until there is none. The rows decide whose turn it is, whatever the message names."""
    worker = _Process.worker
    while worker.aside.run(partial(run, worker)):
        pass
    if worker.is_stopping.is_set():
        # The message is spent; the next worker wants another.
        queue.ring(job_id)


@signals.worker_init.connect
def _open(**_: Any) -> None:
    try:
        worker = Worker(
            Settings.from_env().require("broker_url"), at_other_schema=celery_process.leave
        )
    except LuthierError as error:
        # Celery would log any lesser exception and go on without a worker.
        raise SystemExit(str(error)) from error
    check_schema(worker.engine)
    # Its imports take seconds; the first job should not wait for them.
    worker.trainer()
    try:
        # Before the first message: what a dead worker had goes on before anything else.
        free_leases_of_dead(worker, JobRow)
    except SQLAlchemyError as error:
        log.warning("worker.cannot_free_leases", error=str(error))
    _Process.worker = worker
    _Process.sweep = sweep.of_jobs(worker)
    _Process.cleanup = Cleanup(worker.sessions, worker.blobs)
    _Process.presence = Presence(worker.sessions, worker.name)


@signals.worker_ready.connect
def _begin(**_: Any) -> None:
    _Process.sweep.start()
    _Process.cleanup.start()
    _Process.presence.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    # In a signal handler: only raise flags.
    _Process.sweep.stop()
    _Process.cleanup.stop()
    _Process.presence.stop()
    _Process.worker.stop()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    _Process.worker.close()
