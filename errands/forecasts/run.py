"""One attempt at a forecast, from the claim to its end or to the process's."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from errands import attempts
from errands.attempts import Errand
from errands.errands import FORECAST_SLOTS, Errands
from errands.transfers import bases, process
from errands.transfers.process import TransferRefused
from foundation.crash_points import crash_point
from storage import queue
from storage.blobs import archive
from storage.files import files
from storage.forecasts import forecasts, hosts, making
from storage.forecasts.forecasts import ForecastRow
from storage.forecasts.hosts import Host
from storage.forecasts.plan import Plan
from storage.held_lease import HeldLease
from storage.leases import Claim
from storage.models import artifacts

COMMAND = (sys.executable, "-m", "worker.forecasting")
CRASH_POINTS = ("after_forecast_claim", "before_forecast_end", "after_forecast_end")

Json = dict[str, Any]


class ForecastLease(HeldLease[ForecastRow]):
    def tell_progress(self, share: float) -> None:
        """Nobody is told: most take a second."""


def run(errands: Errands, forecast_id: str) -> None:
    """Somebody rang for a forecast: work on the one whose turn it is, if there is a slot for it."""
    if errands.reads_training_files:
        attempts.run(errands, FORECAST, forecast_id)
    # Else the sweep rings again, for another host.


def _attempt(errands: Errands, claim: Claim[ForecastRow], folder: Path) -> None:
    with ForecastLease(errands.sessions, claim) as lease:
        _work(errands, lease, folder)


FORECAST = Errand(
    "forecast",
    queue.RUN_FORECAST,
    ForecastRow,
    take=lambda session, owner: forecasts.claim(session, owner, FORECAST_SLOTS),
    work=_attempt,
    crash_retry_s=2.0,
)


def _work(errands: Errands, lease: ForecastLease, folder: Path) -> None:
    given_up = attempts.given_up(lease.row)
    if given_up is not None:
        _fail(lease, "server_error", given_up)
        return
    try:
        with attempts.failing("forecast", lease.row.id, partial(_fail, lease)):
            _make(errands, lease, folder)
    except TransferRefused as refused:
        _fail(lease, refused.code, refused.message, refused.param)


def _make(errands: Errands, lease: ForecastLease, folder: Path) -> None:
    """Raises TransferRefused, ProcessDied, LostLease, Stopped, and what the stores raise."""
    asked = lease.row.asked
    base = bases.find(errands, asked["base_model"])
    scratch = folder / "tokenized"
    scratch.mkdir()
    request = {
        "asked": asked,
        "base": asdict(base),
        "bases_dir": str(errands.settings.bases_dir.resolve()),
        "log_dir": str((errands.settings.data_dir / "logs").resolve()),
        "files": _fetch_files(errands, lease, folder),
        "begun": _fetch_begun(errands, asked, folder),
        "folder": str(scratch),
    }
    found = process.run(errands, lease, request, folder, command=COMMAND, log_name="forecasts")
    prices = making.Prices.of(errands.settings)
    with errands.sessions() as session:
        # Where no worker has told of itself yet, this machine may be like it.
        seen = hosts.seen(session) or [Host.here()]
        values = making.make(session, Plan.read(found["plan"]), seen, prices, found["vote"])
    crash_point("before_forecast_end")
    lease.end(lambda session: forecasts.complete(session, lease.claim, values))
    crash_point("after_forecast_end")


def _fetch_files(errands: Errands, lease: ForecastLease, folder: Path) -> Json:
    fetched: Json = {}
    for role in ("training", "validation"):
        file_id = lease.row.asked[f"{role}_file"]
        if file_id is None:
            continue
        with errands.sessions() as session:
            row = files.find(session, lease.row.project_id, file_id)
        if row is None:
            raise TransferRefused(
                f"deleted_{role}_file", f"The {role} file was deleted", f"{role}_file"
            )
        path = folder / f"{role}.rows"
        errands.blobs.get_file(row.blob_key, path, size_bytes=row.size_bytes, sha256=row.sha256)
        lease.check()
        fetched[role] = {"id": row.id, "filename": row.filename, "path": str(path)}
    return fetched


def _fetch_begun(errands: Errands, asked: Json, folder: Path) -> Json | None:
    """The tuned model that the job would go on from."""
    if asked["init_artifact_id"] is None:
        return None
    with errands.sessions() as session:
        row = artifacts.get(session, asked["init_artifact_id"])
    if row is None:
        message = f"The model '{asked['model']}' does not exist"
        raise TransferRefused("model_not_found", message, "model")
    packed = folder / "begun.tar"
    errands.blobs.get_file(row.blob_key, packed, size_bytes=row.size_bytes, sha256=row.sha256)
    unpacked = archive.unpack(packed, folder / "begun")
    packed.unlink()
    return {"kind": row.kind, "spec": row.spec, "folder": str(unpacked)}


def _fail(lease: ForecastLease, code: str, message: str, param: str | None = None) -> None:
    error = {"code": code, "message": message, "param": param}
    lease.end(lambda session: forecasts.fail(session, lease.claim, error))
