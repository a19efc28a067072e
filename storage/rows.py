"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from . import (
    adapters,
    aliases,
    api_keys,
    checkpoints,
    events,
    files,
    jobs,
    models,
    permissions,
    projects,
)
from .database import Base

TABLES = (
    adapters,
    aliases,
    api_keys,
    checkpoints,
    events,
    files,
    jobs,
    models,
    permissions,
    projects,
)
metadata = Base.metadata
