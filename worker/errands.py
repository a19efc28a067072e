"""The errands process: what it holds for its tasks. It has no trainer and stays small.

A task gets ids and looks at their rows, as the training worker does with jobs; several run at a time, each
on a thread of its own.
"""

from __future__ import annotations

import threading

from storage.blobs import open_store
from storage.database import sessions, sync_engine
from storage.settings import Settings

from .folder import Folder

SLOTS = 8
"""Tasks at a time. Batches take some of them for hours, so the rest is for what is short."""


class Errands:
    """`stop` may be called from any thread, a signal handler's too."""

    def __init__(self, settings: Settings) -> None:
        settings.require("database_url", "blob_url", "api_url", "internal_key")
        self.settings = settings
        self.engine = sync_engine(settings.database_url, pool_size=SLOTS)
        self.sessions = sessions(self.engine)
        self.blobs = open_store(settings.blob_url)
        self.folder = Folder(settings.data_dir / "errands")
        self.is_stopping = threading.Event()

    @property
    def name(self) -> str:
        return self.folder.name

    def stop(self) -> None:
        """Tell the tasks at hand to let go."""
        self.is_stopping.set()

    def close(self) -> None:
        self.stop()
        self.folder.close()
        self.engine.dispose()
