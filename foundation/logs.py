"""What a process says: one JSON object a line, on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import orjson
import structlog


def configure() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(_json),
        ],
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _json(value: object, default: Callable[[Any], Any], **_: object) -> bytes:
    return orjson.dumps(value, default)
