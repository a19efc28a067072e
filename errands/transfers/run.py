"""One attempt at an export or import, from the claim to its end or to the process's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import structlog

from errands.errands import TRANSFER_SLOTS, Errands
from errands.patience import Patience
from foundation.crash_points import crash_point
from foundation.errors import BlobError, StorageFull, Unavailable
from storage import leases, queue
from storage.leases import LostLease, Stopped
from storage.models import transfers
from storage.models.transfers import TransferRow
from storage.transactions import OUT_OF_REACH, Transaction

from . import exports, imports
from .lease import TransferLease
from .process import ProcessDied, TransferRefused

CRASH_POINTS = ("after_transfer_claim", "after_making", "before_transfer_end", "after_transfer_end")
STORAGE_RETRY_S = 15.0
CRASH_RETRY_S = 5.0
MAX_CRASHES = 3
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORK: dict[str, Callable[[Errands, TransferLease, Path], None]] = {
    "export": exports.make,
    "import": imports.make,
}

log = structlog.get_logger()


def run(errands: Errands, transfer_id: str) -> None:
    """Somebody rang for a transfer: work on the one whose turn it is, if there is a slot for it."""
    if not errands.knows_models:
        return  # the sweep rings again, for another host
    if errands.is_stopping.is_set():
        queue.run_errand(queue.RUN_TRANSFER, transfer_id)
        return
    claiming = Transaction(
        errands.sessions,
        lambda session: transfers.claim(session, errands.name, TRANSFER_SLOTS),
    )
    claim = claiming.run(Patience(errands).check)
    if claim is None:
        return  # the next transfer to let go of its slot rings
    crash_point("after_transfer_claim")
    _attempt(errands, TransferLease(errands.sessions, claim))
    with errands.sessions() as session:
        for next_id in leases.runnable(session, TransferRow, limit=1):
            queue.run_errand(queue.RUN_TRANSFER, next_id)


def _attempt(errands: Errands, lease: TransferLease) -> None:
    """Do it, and write down how that ended."""
    transfer = lease.transfer
    try:
        with lease, errands.folder.job(f"{transfer.id}-{lease.claim.lease_token}") as folder:
            _work(errands, lease, folder)
        log.info("transfer.done", id=transfer.id)
    except (LostLease, Stopped) as reason:
        log.info("transfer.let_go", id=transfer.id, reason=type(reason).__name__)
        errands.let_go(lease.claim)
    except (Unavailable, *OUT_OF_REACH) as error:
        # It can do nothing about it, and waits for it as long as it takes.
        log.warning("transfer.storage_unavailable", id=transfer.id, error=str(error))
        errands.let_go(lease.claim, after_s=STORAGE_RETRY_S)
    except Exception:
        log.exception("transfer.unexpected_error", id=transfer.id)
        errands.let_go(lease.claim, after_s=CRASH_RETRY_S, is_crash=True)


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
