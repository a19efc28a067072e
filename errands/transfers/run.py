"""One attempt at an export or import, from the claim to its end or to the process's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import structlog

from errands import attempts
from errands.attempts import Errand
from errands.errands import TRANSFER_SLOTS, Errands
from errands.model_process import ProcessDied
from foundation.errors import BlobError, StorageFull
from storage import queue
from storage.leases import Claim
from storage.models import transfers
from storage.models.transfers import TransferRow

from . import exports, imports
from .lease import TransferLease
from .process import TransferRefused

CRASH_POINTS = ("after_transfer_claim", "after_making", "before_transfer_end", "after_transfer_end")
MAX_CRASHES = 3
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORK: dict[str, Callable[[Errands, TransferLease, Path], None]] = {
    "export": exports.make,
    "import": imports.make,
}

log = structlog.get_logger()


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
    if transfer.crashes >= MAX_CRASHES:
        text = f"It was given up after {transfer.crashes} failures of the server in a row."
        _fail(lease, "server_error", text)
        return
    try:
        _WORK[transfer.kind](errands, lease, folder)
    except TransferRefused as refused:
        _fail(lease, refused.code, refused.message)
    except StorageFull as error:
        _fail(lease, "storage_full", error.message)
    except BlobError as error:
        log.error("transfer.blob_damaged", id=transfer.id, error=str(error))
        _fail(lease, "server_error", "What is stored of the model or the file is damaged.")
    except ProcessDied as error:
        log.warning("transfer.process_died", id=transfer.id, error=str(error))
        raise
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _fail(lease, "storage_full", "The server's disk is full.")


def _fail(lease: TransferLease, code: str, message: str) -> None:
    lease.end(lambda session: transfers.fail(session, lease.claim, code, message))
