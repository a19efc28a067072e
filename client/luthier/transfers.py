"""What exports and imports have in common: waiting for their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import openai
from openai import BaseModel

POLL_INTERVAL_S = 0.2
MAX_POLL_INTERVAL_S = 3.0
BACKOFF = 1.3
PATIENCE_S = 120.0
TRANSIENT = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)


class TransferError(BaseModel):
    code: str
    message: str


class TransferFailed(openai.OpenAIError):
    """An export or import that did not succeed; the message says why."""


class _Transfer(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def error(self) -> TransferError | None: ...


T = TypeVar("T", bound=_Transfer)


def wait(look: Callable[[], T], on_look: Callable[[T], object] = lambda _: None) -> T:
    """Look until it has succeeded; a server that cannot be reached is asked again for a while.

    Raises `TransferFailed`, and the last error of a server that stays away.
    """
    interval_s = POLL_INTERVAL_S
    failing_since: float | None = None
    while True:
        try:
            seen = look()
        except TRANSIENT:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since >= PATIENCE_S:
                raise
        else:
            failing_since = None
            on_look(seen)
            if seen.status == "succeeded":
                return seen
            if seen.status not in ("queued", "running"):
                reason = seen.error.message if seen.error else f"its status is {seen.status}"
                raise TransferFailed(f"{seen.id} did not succeed: {reason}")
        time.sleep(interval_s)
        interval_s = min(interval_s * BACKOFF, MAX_POLL_INTERVAL_S)
