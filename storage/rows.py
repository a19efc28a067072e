"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from . import (
    adapters,
    aliases,
    api_keys,
    batches,
    checkpoints,
    events,
    files,
    jobs,
    models,
    permissions,
    projects,
    stored_completions,
    upload_parts,
    uploads,
    usage,
)
from .database import Base

TABLES = (
    adapters,
    aliases,
    api_keys,
    batches,
    checkpoints,
    events,
    files,
    jobs,
    models,
    permissions,
    projects,
    stored_completions,
    upload_parts,
    uploads,
    usage,
)
metadata = Base.metadata
