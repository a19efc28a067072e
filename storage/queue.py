"""The queues: doorbells. A message says "look" and nothing more; losing one costs a delay.

Celery decides nothing about retries, results or cancelling: all of that is in the job's row. Tasks are
acknowledged early, because with late acknowledgement Redis delivers a task of hours again while it runs.
"""

from __future__ import annotations

import structlog
from celery import Celery

RUN_JOB = "worker.run_job"
RUN_BATCH = "worker.run_batch"
RUN_TRANSFER = "worker.run_transfer"
RUN_REPORT = "worker.run_report"
RUN_FORECAST = "worker.run_forecast"
TRAIN_QUEUE = "train"
ERRANDS_QUEUE = "errands"
"""What needs no trainer: batches, deliveries of webhooks, exports and imports, reports."""
MAX_RINGS = 256
"""Messages that may wait for workers of jobs: more workers than that are not idle at a time."""
KEY_PREFIX = "luthier:"

log = structlog.get_logger()

app = Celery("luthier")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "global_keyprefix": KEY_PREFIX,
    },
    # Pickle on an exposed broker would be remote code execution.
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    task_acks_late=False,
    task_default_queue=TRAIN_QUEUE,
    task_publish_retry=True,
    task_publish_retry_policy={"max_retries": 1, "interval_start": 0.1, "interval_max": 0.2},
    worker_cancel_long_running_tasks_on_connection_loss=False,
    # A busy worker must not hoard a job that an idle one could take.
    worker_disable_prefetch=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)


def ring(job_id: str) -> bool:
    """Say "there is work, this job for one"; False if the broker cannot be reached.

    The sweep will ring again then. A message wakes one worker, which goes on as long as there is work, so
    more of them than there are workers say nothing new.
    """
    try:
        if depth() >= MAX_RINGS:
            return True
    except Exception as error:  # whatever the transport raises
        log.warning("queue.ring_failed", task=RUN_JOB, ids=[job_id], error=str(error))
        return False
    return _send(TRAIN_QUEUE, RUN_JOB, job_id)


def run_errand(task: str, *ids: str) -> bool:
    """Say "look at this" to the errands process; False as with `ring`."""
    return _send(ERRANDS_QUEUE, task, *ids)


def depth(queue: str = TRAIN_QUEUE) -> int:
    """Messages that wait for a worker."""
    with app.connection_or_acquire() as connection:
        return int(connection.default_channel.client.llen(queue))


def _send(queue: str, task: str, *ids: str) -> bool:
    try:
        app.send_task(task, args=ids, queue=queue)
    except Exception as error:  # whatever the transport raises: the row is written, nothing is lost
        log.warning("queue.ring_failed", task=task, ids=ids, error=str(error))
        return False
    return True
