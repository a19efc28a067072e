"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from . import (  # noqa: F401
    adapters,
    aliases,
    api_keys,
    batch_chunks,
    batches,
    checkpoints,
    events,
    files,
    idempotency_keys,
    jobs,
    models,
    permissions,
    projects,
    service_accounts,
    stored_completions,
    upload_parts,
    uploads,
    usage,
    webhook_deliveries,
    webhooks,
)
from .database import Base

metadata = Base.metadata
