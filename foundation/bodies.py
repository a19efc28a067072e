"""How long the body of a request may be, for who takes it and for who sends it."""

from __future__ import annotations

MAX_BODY_BYTES = 1024 * 1024
"""Of what describes a resource."""
MAX_LONG_BODY_BYTES = 8 * 1024 * 1024
"""Of what holds texts: some times the longest context there is, as UTF-8."""
