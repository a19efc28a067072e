"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from . import adapters, api_keys, checkpoints, events, files, jobs, models, projects
from .database import Base

TABLES = (adapters, api_keys, checkpoints, events, files, jobs, models, projects)
metadata = Base.metadata
