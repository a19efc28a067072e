"""Every table, for who needs them all at once: migrations and tests."""

from __future__ import annotations

from . import idempotency_keys  # noqa: F401
from .database import Base
from .files import files, upload_parts, uploads  # noqa: F401
from .forecasts import forecasts, hosts  # noqa: F401
from .inference import (  # noqa: F401
    batch_chunks,
    batches,
    conversations,
    responses,
    stored_completions,
)
from .jobs import checkpoints, events, jobs  # noqa: F401
from .models import (  # noqa: F401
    aliases,
    artifacts,
    models,
    permissions,
    signing_keys,
    transfers,
)
from .organization import (  # noqa: F401
    api_keys,
    projects,
    service_accounts,
    sessions,
    usage,
)
from .reports import parts, reports  # noqa: F401
from .webhooks import deliveries, webhooks  # noqa: F401

metadata = Base.metadata
