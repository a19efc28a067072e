"""The errands process: what it holds for its tasks. It has no trainer and stays small.

A task gets ids and looks at their rows, as the training worker does with jobs; several run at a time, each
on a thread of its own.
"""

from __future__ import annotations

import threading
from importlib.util import find_spec

import structlog
from sqlalchemy import exc

from errands.batches.gateway import Gateway
from foundation.settings import Settings
from storage import leases
from storage.blobs.blobs import open_store
from storage.database import Refusal, refuse, sessions, sync_engine
from storage.leases import Claim, LostLease, R
from storage.worker_folder import Folder

log = structlog.get_logger()

TRANSFER_SLOTS = 1
"""Exports read and write gigabytes, and compute: one at a time."""
REPORT_SLOTS = 1
"""Reports ask models for an hour, and must not be felt by those who ask them, too."""
FORECAST_SLOTS = 2
"""Forecasts tokenise whole files, each in a process of its own; somebody waits for them."""
SLOTS = 12
"""Tasks at a time."""
_OF_MODELS = ("modeling", "torch", "gguf")
_OF_FORECASTS = ("worker", "training", "tokenizers")
BATCH_SLOTS = 8
"""Batches take hours: so many at a time, and the other slots are for messages that need none."""


class Errands:
    """`stop` may be called from any thread, a signal handler's too."""

    def __init__(self, settings: Settings, *, at_other_schema: Refusal = refuse) -> None:
        settings.require("database_url", "blob_url", "api_url", "internal_key")
        self.settings = settings
        self.vault = settings.vault()
        self.engine = sync_engine(
            settings.database_url, pool_size=SLOTS, at_other_schema=at_other_schema
        )
        self.sessions = sessions(self.engine)
        self.blobs = open_store(settings.blob_url)
        self.gateway = Gateway(settings.api_url, settings.internal_key, settings.batch_concurrency)
        self.folder = Folder(settings.data_dir / "errands")
        self.leaving: set[str] = set()
        """Batches that give way to others: one at a time, or all would for the one that waits."""
        self.knows_models = all(map(find_spec, _OF_MODELS))
        """Whether exports and imports can be done on this host, by a process of their own."""
        self.reads_training_files = all(map(find_spec, _OF_FORECASTS))
        """Likewise forecasts."""
        self.is_stopping = threading.Event()

    @property
    def name(self) -> str:
        return self.folder.name

    def stop(self) -> None:
        """Tell the tasks at hand to let go."""
        self.is_stopping.set()

    def let_go(self, held: Claim[R], *, after_s: float = 0, is_crash: bool = False) -> bool:
        """Give a lease back, to be taken again after `after_s`. False if it is lost already, or runs out by itself."""
        try:
            with self.sessions.begin() as session:
                leases.release(session, held, after_s=after_s, is_crash=is_crash)
        except LostLease:
            return False
        except exc.SQLAlchemyError as error:
            log.warning("errands.not_let_go", id=held.row.id, error=str(error))
            return False
        return True

    def close(self) -> None:
        self.stop()
        self.gateway.close()
        self.folder.close()
        self.engine.dispose()
