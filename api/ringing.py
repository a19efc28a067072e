"""Telling the workers that there is work."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

RING_TIMEOUT_S = 2.0
"""A broker that hangs costs no more: the row is there, and a sweep finds it."""


async def ring(say: Callable[..., bool], *words: str) -> None:
    """Call one of `storage.queue`'s functions within bounded time; what is lost costs a delay."""
    with anyio.move_on_after(RING_TIMEOUT_S):
        await run_sync(say, *words, abandon_on_cancel=True)
