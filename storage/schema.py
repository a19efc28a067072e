"""Which schema this code was written for, and the refusal to work with a database of another.

A host that was left out of an upgrade, or was upgraded alone, would read and write rows that mean something
else to the others. `storage.database` looks at each connection; inference servers, which know no database,
hear from the gateway what it was written for.
"""

from __future__ import annotations

from foundation.errors import Unavailable

REVISION = "0019"
"""Of the newest migration: hosts that compute have none of them at hand."""
HEADER = "x-luthier-schema"
"""Tells an inference server the gateway's revision."""


class OtherSchema(Unavailable):
    """The database is of another revision. Nothing but an operator mends that."""

    def __init__(self, found: str | None) -> None:
        if found is None or found < REVISION:
            advice = "run `python -m migrations` from this version of Luthier, then start again"
        else:
            advice = (
                "this host's Luthier is older than the one whose `python -m migrations` ran: "
                "install that version here, then start again"
            )
        super().__init__(
            f"the database is at schema revision {found or 'none'}, this process works with "
            f"{REVISION}: {advice}"
        )


def check_caller(revision: str | None) -> None:
    """Look at the revision that an inference server's caller tells. Whoever tells no revision is no gateway of ours. Raises Unavailable."""
    if revision is not None and revision != REVISION:
        raise Unavailable(
            f"This inference server works with schema revision {REVISION}, its gateway with "
            f"{revision}: run the same version of Luthier on both hosts (`python -m migrations` brings "
            "the database along)."
        )
