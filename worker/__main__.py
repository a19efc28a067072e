"""`python -m worker`: a Celery worker in this process, with its trainer at its side."""

from __future__ import annotations

import logging
import sys
import warnings

import structlog
from celery.platforms import SecurityWarning

from storage import queue
from storage.death_pipe import exit_with_parent
from storage.errors import LuthierError
from storage.settings import Settings

from . import tasks


def main() -> int:
    exit_with_parent()
    _configure_log()
    try:
        Settings.from_env().require("database_url", "broker_url", "blob_url")
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    assert queue.RUN_JOB in queue.app.tasks, tasks
    # Celery warns of root because of pickle, which the queue does not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    queue.app.worker_main(["--quiet", "worker", *options, "-Q", queue.TRAIN_QUEUE])
    return 0


def _configure_log() -> None:
    """One JSON object a line, on stderr."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    raise SystemExit(main())
