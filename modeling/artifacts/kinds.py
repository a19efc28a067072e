"""The kinds of artifacts, each with the file that reads, writes and checks it. A new kind is a line here."""

from __future__ import annotations

from . import classifier, full, lora, output_layers, prefix
from .artifact import ArtifactError, Format

KINDS: dict[str, Format] = {
    lora.KIND: lora,
    classifier.KIND: classifier,
    prefix.KIND: prefix,
    output_layers.KIND: output_layers,
    full.KIND: full,
}


def format_of(kind: str) -> Format:
    """Raises `ArtifactError` for a kind that is not known here."""
    if kind not in KINDS:
        raise ArtifactError(
            f"artifacts of the kind '{kind}' are not known here; known: {', '.join(KINDS)}"
        )
    return KINDS[kind]
