"""One worker: its database, its blobs, its folder and its resident trainer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from foundation.settings import Settings
from storage.blobs.blobs import open_store
from storage.database import Refusal, refuse, sessions, sync_engine
from storage.leases import Stopped
from storage.models.base_models import Catalogue, WatchedCatalogue
from storage.worker_folder import Folder

from . import trainer
from .aside import Aside
from .bases import Bases
from .lease import Lease
from .occupancy import Occupancy
from .trainer import Trainer

log = structlog.get_logger()


class Worker:
    """Works on as many jobs at a time as it has threads that `run` them; `stop` may be called from any thread, a
    signal handler's too."""

    def __init__(
        self,
        settings: Settings,
        *,
        trainer_command: Sequence[str] = (),
        at_other_schema: Refusal = refuse,
    ) -> None:
        settings.require("database_url", "blob_url")
        self.settings = settings
        self.engine = sync_engine(
            settings.database_url,
            # A job and its heartbeat at most.
            pool_size=max(4, settings.small_jobs_per_trainer),
            at_other_schema=at_other_schema,
        )
        self.sessions = sessions(self.engine)
        self.blobs = open_store(settings.blob_url)
        self.folder = Folder(settings.data_dir / "worker")
        self.bases = Bases(settings.bases_dir, settings.data_dir / "logs")
        self._catalogue = WatchedCatalogue(settings.data_dir, settings.aliases)
        self.is_stopping = threading.Event()
        resident = str(settings.resident_bytes)
        self._trainer_command = trainer_command or (*trainer.COMMAND, "--resident-bytes", resident)
        self.occupancy = Occupancy()
        self.aside = Aside(max(settings.small_jobs_per_trainer - settings.jobs_per_trainer, 0))
        self._starting = threading.Lock()
        self._trainer: Trainer | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def catalogue(self) -> Catalogue:
        """As it stands now: bases are added while workers run."""
        return self._catalogue.now()

    def trainer(self) -> Trainer:
        """The trainer, started if there is none alive."""
        with self._starting:
            if self._trainer is not None and not self._trainer.is_alive:
                self._trainer.close()
                self._trainer = None
            if self._trainer is None:
                log_file = self.settings.data_dir / "logs" / "trainer.log"
                self._trainer = Trainer(log_file, command=self._trainer_command)
                log.info("trainer.started", pid=self._trainer.pid)
            return self._trainer

    def stop(self) -> None:
        """Tell the job at hand to make a checkpoint and let go."""
        self.is_stopping.set()

    def check_stopping(self) -> None:
        if self.is_stopping.is_set():
            raise Stopped

    def check(self, lease: Lease) -> None:
        """May the work on a job go on? Raises LostLease, Stopped and Paused."""
        lease.check()
        self.check_stopping()
        lease.check_pausing()

    def close(self) -> None:
        self.stop()
        self.aside.join()
        if self._trainer is not None:
            self._trainer.close()
        self.folder.close()
        self.engine.dispose()
