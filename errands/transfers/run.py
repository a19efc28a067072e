"""One attempt at an export or import, from the claim to its end or to the process's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from errands import attempts
from errands.attempts import Errand
from errands.errands import TRANSFER_SLOTS, Errands
from foundation.errors import StorageFull
from storage import queue
from storage.leases import Claim
from storage.models import transfers
from storage.models.transfers import TransferRow

from . import exports, imports
from .lease import TransferLease
from .process import TransferRefused

CRASH_POINTS = ("after_transfer_claim", "after_making", "before_transfer_end", "after_transfer_end")
_WORK: dict[str, Callable[[Errands, TransferLease, Path], None]] = {
    "export": exports.make,
    "import": imports.make,
}


def run(errands: Errands, transfer_id: str) -> None:
    """Somebody rang for a transfer: work on the one whose turn it is, if there is a slot for it."""
    if errands.knows_models:
        attempts.run(errands, TRANSFER, transfer_id)
    # Else the sweep rings again, for another host.


def _attempt(errands: Errands, claim: Claim[TransferRow], folder: Path) -> None:
    with TransferLease(errands.sessions, claim) as lease:
        _work(errands, lease, folder)


TRANSFER = Errand(
    "transfer",
    queue.RUN_TRANSFER,
    TransferRow,
    take=lambda session, owner: transfers.claim(session, owner, TRANSFER_SLOTS),
    work=_attempt,
    crash_retry_s=5.0,
)


def _work(errands: Errands, lease: TransferLease, folder: Path) -> None:
    transfer = lease.transfer
    given_up = attempts.given_up(transfer)
    if given_up is not None:
        _fail(lease, "server_error", given_up)
        return
    try:
        with attempts.failing("transfer", transfer.id, partial(_fail, lease)):
            _WORK[transfer.kind](errands, lease, folder)
    except TransferRefused as refused:
        _fail(lease, refused.code, refused.message)
    except StorageFull as error:
        _fail(lease, "storage_full", error.message)


def _fail(lease: TransferLease, code: str, message: str) -> None:
    lease.end(lambda session: transfers.fail(session, lease.claim, code, message))
