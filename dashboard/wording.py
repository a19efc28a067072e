"""Numbers, times and states in words, as the templates show them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

MISSING = "—"
ENDED = ("succeeded", "failed", "cancelled")
ICONS = {
    "validating_files": "◌",
    "queued": "◌",
    "running": "●",
    "paused": "‖",
    "succeeded": "✓",
    "failed": "✕",
    "cancelled": "—",
}
STATES = {
    "validating_files": "checking files",
    "queued": "waiting",
    "running": "training",
    "paused": "paused",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}


def number(value: Any) -> str:
    """`822.7 k`; a loss keeps three decimals."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    if isinstance(value, float) and (not math.isfinite(value) or abs(value) < 1000):
        return f"{value:.3f}" if math.isfinite(value) else MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return f"{value / (size if unit != 'k' else 1e3):.1f} {unit}"
    return f"{value:,.0f}".replace(",", " ")


def size(num_bytes: Any) -> str:
    if not isinstance(num_bytes, int | float):
        return MISSING
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration(seconds: Any) -> str:
    """`12 min 30 s`."""
    if not isinstance(seconds, int | float):
        return MISSING
    left = max(0, round(seconds))
    hours, minutes, rest = left // 3600, left % 3600 // 60, left % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def iso(timestamp: Any) -> str:
    """For `<time datetime>`; a script puts it in the reader's own zone."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat() if timestamp else ""


def utc(timestamp: Any) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC" if timestamp else MISSING


def name(job: Json) -> str:
    """What its owner called the job, else its id."""
    return str(job.get("user_provided_suffix") or job["id"])


def state(job: Json) -> str:
    return STATES[job["status"]]


def icon(job: Json) -> str:
    return ICONS[job["status"]]
