"""`python -m worker`: a Celery worker in this process, with its trainer at its side."""

from __future__ import annotations

import sys

from storage import queue
from storage.death_pipe import exit_with_parent
from storage.errors import LuthierError
from storage.settings import Settings

from . import tasks


def main() -> int:
    exit_with_parent()
    try:
        Settings.from_env().require("database_url", "broker_url", "blob_url")
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    assert queue.RUN_JOB in queue.app.tasks, tasks
    queue.app.worker_main(
        [
            "worker",
            "--loglevel=WARNING",
            "--without-gossip",
            "--without-mingle",
            "-Q",
            queue.TRAIN_QUEUE,
        ]
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
