"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from .database import Base

metadata = Base.metadata
