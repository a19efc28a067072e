"""Moments as they are on the wire: whole seconds since 1970."""

from __future__ import annotations

from datetime import datetime


def seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
