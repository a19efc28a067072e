"""The errands' sweeps ring for batches, transfers, reports and forecasts, and blobs that no batch needs any more are taken away."""

from __future__ import annotations

from functools import partial

from errands.batches import output as batch_output
from storage import queue
from storage.forecasts.forecasts import ForecastRow
from storage.inference.batches import BatchRow
from storage.models.transfers import TransferRow
from storage.reports.reports import ReportRow
from storage.rounds import Rounds
from storage.sweep import Sweep

from .errands import BATCH_SLOTS, Errands

_LOCK = 7_021_530_914
MAX_TRANSFER_RINGS = 4
MAX_REPORT_RINGS = 4
MAX_FORECAST_RINGS = 4
_KINDS = (BatchRow, TransferRow, ReportRow, ForecastRow)
_TRANSFERS_LOCK = 7_021_530_918
_REPORTS_LOCK = 7_021_530_920
_FORECASTS_LOCK = 7_021_530_923


def of_batches(errands: Errands) -> Sweep:
    return _sweep(errands, BatchRow, queue.RUN_BATCH, limit=BATCH_SLOTS, lock=_LOCK)


def of_transfers(errands: Errands) -> Sweep:
    return _sweep(
        errands, TransferRow, queue.RUN_TRANSFER, limit=MAX_TRANSFER_RINGS, lock=_TRANSFERS_LOCK
    )


def of_reports(errands: Errands) -> Sweep:
    return _sweep(errands, ReportRow, queue.RUN_REPORT, limit=MAX_REPORT_RINGS, lock=_REPORTS_LOCK)


def of_forecasts(errands: Errands) -> Sweep:
    return _sweep(
        errands, ForecastRow, queue.RUN_FORECAST, limit=MAX_FORECAST_RINGS, lock=_FORECASTS_LOCK
    )


def _sweep(
    errands: Errands,
    table: type[BatchRow | TransferRow | ReportRow | ForecastRow],
    task: str,
    *,
    limit: int,
    lock: int,
) -> Sweep:
    return Sweep(
        errands,
        table,
        queue_name=queue.ERRANDS_QUEUE,
        ring=partial(queue.run_errand, task),
        limit=limit,
        lock=lock,
        interval_s=5.0,
        frees=_KINDS,
    )


class BatchCleanup(Rounds):
    name = "batch_cleanup"
    interval_s = 30.0

    def __init__(self, errands: Errands) -> None:
        super().__init__()
        self._errands = errands

    def once(self) -> None:
        batch_output.clean_up(self._errands)
