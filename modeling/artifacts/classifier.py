"""The kind `classifier` on disk: a LoRA adapter and an output layer of a row for each label, in PEFT's layout for SEQ_CLS.

PEFT's configuration does not say what the rows mean; classifier.json beside it does. What is read may come from anyone,
so `read` refuses what does not fit the base exactly.

Dimensions: K labels, D model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from . import files, lora, peft_files
from .artifact import Artifact, ArtifactError, check_bound
from .lora import AdapterConfig
from .peft_files import CONFIG_NAME, WEIGHTS_NAME

KIND = "classifier"

SCORE = "base_model.model.score.weight"
LABELS_NAME = "classifier.json"
MODULES_TO_SAVE = ["classifier", "score"]
"""PEFT's own list for SEQ_CLS, of which a model has one."""
MAX_LABELS = 10_000
# Hidden states behind the last norm are of size 1 to 100, and differences of 20 between logits are certainty.
MAX_VALUE = 1e4


def artifact(
    config: AdapterConfig, tensors: Mapping[str, Tensor], labels: Sequence[str]
) -> Artifact:
    """LoRA's tensors, named by `lora.peft_name`, and `SCORE` (K, D), as an artifact."""
    adapter = lora.artifact(config, tensors)
    spec = {**adapter.spec, "labels": list(labels)}
    return Artifact(KIND, spec, tensors, adapter.base_model, adapter.base_revision)


def adapter_of(artifact: Artifact) -> Artifact:
    """The LoRA adapter alone."""
    spec = {name: value for name, value in artifact.spec.items() if name != "labels"}
    tensors = {name: tensor for name, tensor in artifact.tensors.items() if name != SCORE}
    return Artifact(lora.KIND, spec, tensors, artifact.base_model, artifact.base_revision)


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    lora.check(adapter_of(artifact))
    check_bound(SCORE, "values", float(artifact.tensors[SCORE].abs().max()), MAX_VALUE)


def write(folder: Path, artifact: Artifact) -> None:
    config = lora.to_peft(lora.config_of(adapter_of(artifact)))
    config |= {"task_type": "SEQ_CLS", "modules_to_save": MODULES_TO_SAVE}
    peft_files.write(folder, config, artifact.tensors)
    labels = {"id2label": dict(enumerate(artifact.spec["labels"]))}
    (folder / LABELS_NAME).write_text(json.dumps(labels, indent=2), encoding="utf-8")


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    """As `lora.load`, and the output layer. Raises `ArtifactError`."""
    neutral = {**lora.NEUTRAL_OPTIONS, "task_type": ("SEQ_CLS",)}
    del neutral["modules_to_save"]
    raw = peft_files.read_config(folder, "LORA", "LoRA adapter", neutral)
    saved = raw.get("modules_to_save")
    if not isinstance(saved, list) or "score" not in saved or not set(saved) <= {*MODULES_TO_SAVE}:
        raise ArtifactError(
            f"{CONFIG_NAME} has modules_to_save={saved!r}, which is not {MODULES_TO_SAVE}"
        )
    tensors = peft_files.read_tensors(folder)
    score = tensors.pop(SCORE, None)
    if score is None:
        raise ArtifactError(f"{WEIGHTS_NAME} lacks {SCORE}")
    labels = _read_labels(folder)
    if tuple(score.shape) != (len(labels), base_config.hidden_size):
        raise ArtifactError(
            f"{SCORE} has shape {tuple(score.shape)} where this base and {len(labels)} labels need "
            f"{(len(labels), base_config.hidden_size)}"
        )
    config, layers = lora.understood(
        raw, tensors, base_config, base_model=base_model, base_revision=base_revision
    )
    adapter = lora.of_layers(config, layers)
    found = artifact(config, {**adapter.tensors, SCORE: score}, labels)
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
