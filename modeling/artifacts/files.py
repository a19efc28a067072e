"""Files that may come from anyone: read only as far as they are of a bounded size and what they claim to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .artifact import ArtifactError

# A header holds some hundred bytes a tensor; more than this is an attack or another kind of file.
MAX_HEADER_BYTES = 4 << 20
MAX_CONFIG_BYTES = 1 << 20


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises `ArtifactError`."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ArtifactError(f"{path.name} is too large")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path.name} does not hold an object")
    return raw


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


def check_header(path: Path) -> None:
    """Before the library reads a safetensors file. Raises `ArtifactError`, and OSError for one that is not there."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ArtifactError(f"{path.name} has a header of {header_bytes} bytes, which is too large")
