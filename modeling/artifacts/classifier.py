"""The kind `classifier` on disk: a LoRA adapter and a head that has a row for each label.

PEFT's configuration does not say what the rows mean; classifier.json beside it does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from . import files, head, peft_files
from .artifact import Artifact, ArtifactError
from .lora import AdapterConfig

KIND = "classifier"

LABELS_NAME = "classifier.json"
MAX_LABELS = 10_000
MAX_FILE_BYTES = {**peft_files.MAX_FILE_BYTES, LABELS_NAME: files.MAX_CONFIG_BYTES}
"""Beyond which they are refused."""


def artifact(
    config: AdapterConfig, tensors: Mapping[str, Tensor], labels: Sequence[str]
) -> Artifact:
    """As `head.artifact`, with a label for each row of it."""
    return head.artifact(KIND, config, tensors, {"labels": list(labels)})


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    head.check(artifact)


def write(folder: Path, artifact: Artifact) -> None:
    head.write(folder, artifact)
    labels = {"id2label": dict(enumerate(artifact.spec["labels"]))}
    (folder / LABELS_NAME).write_text(json.dumps(labels, indent=2), encoding="utf-8")


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    """As `head.read`, and the labels. Raises `ArtifactError`."""
    labels = _read_labels(folder)
    config, tensors = head.read(
        folder, base_config, len(labels), base_model=base_model, base_revision=base_revision
    )
    found = artifact(config, tensors, labels)
    check(found)
    return found


def _read_labels(folder: Path) -> list[str]:
    try:
        named: Any = files.read_json(folder / LABELS_NAME)["id2label"]
        labels = [named[str(row)] for row in range(len(named))]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{LABELS_NAME} cannot be read: {error}") from error
    are_texts = all(isinstance(label, str) for label in labels)
    if not are_texts or len(set(labels)) != len(labels) or not 2 <= len(labels) <= MAX_LABELS:
        raise ArtifactError(f"{LABELS_NAME} must name 2 to {MAX_LABELS} different labels by row")
    return labels
