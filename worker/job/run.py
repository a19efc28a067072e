"""One attempt at a job, from the claim to whatever its end."""

from __future__ import annotations

import errno
import time

import structlog

from foundation.crash_points import crash_point
from foundation.errors import BlobError, Unavailable
from storage import queue
from storage.jobs import jobs
from storage.jobs import turns as job_turns
from storage.jobs.jobs import JobRow
from storage.leases import Claim, LostLease, Stopped
from storage.transactions import Transaction
from worker.endings import JobFailed, Paused, Setback, UnusableState
from worker.lease import Lease
from worker.trainer import TrainerDied
from worker.worker import Worker

from . import finish, probes, resume, supervise
from .prepare import prepare

STORAGE_RETRY_S = 15.0
CLAIM_S = 15.0
"""For so long a worker tries to claim a job, or to find out whether it has."""

log = structlog.get_logger()


def run(worker: Worker) -> bool:
    """Work on the job whose turn it is; False if there is none, or the worker is to end."""
    claiming = Transaction(
        worker.sessions, lambda session: job_turns.claim_next(session, worker.name)
    )
    claim = _claim(worker, claiming)
    if claim is None:
        return False
    crash_point("after_claim")
    log.info("job.claimed", job_id=claim.row.id, attempt=claim.row.attempt)
    with Lease(worker.sessions, claim, renewed_at=claiming.began_at) as lease:
        try:
            _attempt(worker, lease)
        except LostLease:
            log.info("job.lost", job_id=claim.row.id)
    return True


def _claim(worker: Worker, claiming: Transaction[Claim[JobRow] | None]) -> Claim[JobRow] | None:
    if worker.is_stopping.is_set():
        return None
    deadline = time.monotonic() + CLAIM_S

    def check() -> float:
        if time.monotonic() > deadline:
            raise Unavailable("The database did not answer; the sweep will ring again.")
        return deadline

    return claiming.run(check)


def _attempt(worker: Worker, lease: Lease) -> None:
    """Work on the job, and write down how that ended. Raises LostLease."""
    try:
        _work(worker, lease)
    except LostLease:
        raise
    except JobFailed as error:
        finish.fail(worker, lease, error)
    except Stopped:
        finish.give_back(lease)
        queue.ring(lease.job.id)
    except Paused:
        if not finish.pause(lease):
            queue.ring(lease.job.id)
    except UnusableState as error:
        resume.discard_newest(lease, str(error))
        finish.give_back(lease)
        queue.ring(lease.job.id)
    except (BlobError, Unavailable) as error:
        # The job can do nothing about the blob store, and waits for it as long as it takes.
        log.warning("job.storage_unavailable", job_id=lease.job.id, error=str(error))
        finish.postpone(lease, STORAGE_RETRY_S)
    except Exception as error:
        _set_back(worker, lease, _setback(error))


def _set_back(worker: Worker, lease: Lease, setback: Setback) -> None:
    if isinstance(setback, TrainerDied) and setback.was_shared:
        # Alone it shows whether it was to blame; as long as that is open, it does not count.
        worker.occupancy.suspect(lease.job.id)
        finish.give_back(lease)
        queue.ring(lease.job.id)
    elif finish.set_back(worker, lease, setback):
        queue.ring(lease.job.id)


def _work(worker: Worker, lease: Lease) -> None:
    """From validation to success; every step finds out what an earlier attempt has done already."""
    if lease.job.crashes >= jobs.MAX_CRASHES:
        raise JobFailed(
            "worker_lost",
            f"The job was given up: its worker was lost {lease.job.crashes} times in a row",
        )
    with probes.asked(worker, lease):
        if finish.last_metrics(worker, lease) is None:
            # An earlier attempt that lost the job may still be on its way out of a folder of its own.
            with worker.folder.job(f"{lease.job.id}-{lease.claim.lease_token}") as folder:
                start = prepare(worker, lease, folder)
                supervise.train(worker, lease, start)
    finish.succeed(worker, lease)


def _setback(error: Exception) -> Setback:
    if isinstance(error, Setback):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Setback("The worker's disk is full", code="insufficient_disk")
    log.exception("job.unexpected_error")
    return Setback("An internal error interrupted the job", code="server_error")
