"""What Celery sees of the errands process: its tasks, its slots, and the moments of starting and stopping."""

from __future__ import annotations

from typing import Any

from celery import signals

from errands.batches import run as batch_run
from errands.forecasts import run as forecast_run
from errands.reports import run as report_run
from errands.transfers import run as transfer_run
from foundation.errors import LuthierError
from foundation.settings import Settings
from storage import celery_process, queue
from storage.database import check_schema
from storage.sweep import Sweep

from . import sweep
from .errands import SLOTS, Errands
from .sweep import BatchCleanup
from .webhooks import Webhooks

# Threads, because the tasks only wait for other servers.
queue.app.conf.update(
    worker_pool="threads", worker_concurrency=SLOTS, worker_redirect_stdouts=False
)


class _Process:
    """What this process holds, between Celery's signals."""

    errands: Errands
    sweeps: tuple[Sweep, ...]
    cleanup: BatchCleanup
    webhooks: Webhooks


@queue.app.task(name=queue.RUN_BATCH, max_retries=0)
def run_batch(batch_id: str) -> None:
    batch_run.run(_Process.errands, batch_id)


@queue.app.task(name=queue.RUN_TRANSFER, max_retries=0)
def run_transfer(transfer_id: str) -> None:
    transfer_run.run(_Process.errands, transfer_id)


@queue.app.task(name=queue.RUN_REPORT, max_retries=0)
def run_report(report_id: str) -> None:
    report_run.run(_Process.errands, report_id)


@queue.app.task(name=queue.RUN_FORECAST, max_retries=0)
def run_forecast(forecast_id: str) -> None:
    forecast_run.run(_Process.errands, forecast_id)


@signals.worker_init.connect
def _open(**_: Any) -> None:
    try:
        errands = Errands(
            Settings.from_env().require("broker_url"), at_other_schema=celery_process.leave
        )
    except LuthierError as error:
        # Celery would log any lesser exception and go on without them.
        raise SystemExit(str(error)) from error
    check_schema(errands.engine)
    _Process.errands = errands
    _Process.sweeps = (
        sweep.of_batches(errands),
        sweep.of_transfers(errands),
        sweep.of_reports(errands),
        sweep.of_forecasts(errands),
    )
    _Process.cleanup = BatchCleanup(errands)
    _Process.webhooks = Webhooks(
        errands.sessions, errands.vault, allow_private=errands.settings.webhook_allow_private
    )


@signals.worker_ready.connect
def _begin(**_: Any) -> None:
    for each in _Process.sweeps:
        each.start()
    _Process.cleanup.start()
    _Process.webhooks.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    # In a signal handler: only raise flags.
    for each in _Process.sweeps:
        each.stop()
    _Process.cleanup.stop()
    _Process.webhooks.stop()
    _Process.errands.stop()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    _Process.errands.close()
