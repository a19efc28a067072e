"""Where an artifact's blob lies. The id alone says it, so that who has no database finds it, too.

The blob is one uncompressed tar of a folder in the format of the artifact's kind.
"""

from __future__ import annotations

ID_PREFIX = "artifact-"
PREFIXES = ("artifacts/", "adapters/")
"""Every artifact's key begins with one of these. The second is of versions that knew LoRA alone."""


def key(artifact_id: str) -> str:
    prefix = PREFIXES[0] if artifact_id.startswith(ID_PREFIX) else PREFIXES[1]
    return f"{prefix}{artifact_id}.tar"


def artifact_id(key: str) -> str:
    """The id of the artifact whose blob it is; the inverse of `key`."""
    return key.partition("/")[2].removesuffix(".tar")
