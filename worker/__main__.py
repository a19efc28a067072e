"""`python -m worker`: a Celery worker in this process, with its trainer at its side.

`python -m worker --errands` is another, without a trainer: it runs batches and delivers webhooks.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

import structlog
from celery.platforms import SecurityWarning

from foundation.errors import LuthierError
from foundation.leash import exit_with_parent
from foundation.settings import Settings
from storage import queue


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker")
    parser.add_argument("--errands", action="store_true", help="batches and webhooks, no training")
    is_errands = parser.parse_args().errands
    exit_with_parent()
    _configure_log()
    try:
        settings = Settings.from_env().require("database_url", "broker_url", "blob_url")
        if is_errands:
            settings.require("api_url", "internal_key")
    except LuthierError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    # Each defines its tasks and hears Celery's signals, so a process imports one of them only.
    if is_errands:
        from errands import tasks as errand_tasks  # noqa: F401
    else:
        from . import tasks  # noqa: F401
    # Celery warns of root because of pickle, which the queue does not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    options = ["--loglevel=WARNING", "--without-gossip", "--without-mingle"]
    name = queue.ERRANDS_QUEUE if is_errands else queue.TRAIN_QUEUE
    queue.app.worker_main(["--quiet", "worker", *options, "-Q", name])
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
