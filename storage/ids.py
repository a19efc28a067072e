"""Ids: a prefix that says the kind, then random base-62 characters. Never guessed, never reused."""

from __future__ import annotations

import secrets
import string

ALPHABET = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 24) -> str:
    """A new id with a prefix, for example `new_id("file-")`; 24 characters carry 142 bits."""
    return prefix + random_name(length)


def random_name(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
