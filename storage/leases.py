"""Leases: who may work on a row just now."""

from __future__ import annotations


class Stopped(Exception):
    """The process is told to end; the work goes on elsewhere, and this attempt does not count."""
