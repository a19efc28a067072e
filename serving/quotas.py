"""How much each project may have open. Needs no torch, so that who only reads settings does not load it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quotas:
    max_open: int = 4096
    """Sequences of all projects. Beyond it only projects below an equal share get in."""
    max_open_per_project: int = 1024
    """Sequences of one project; what comes on top is refused."""
