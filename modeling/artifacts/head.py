"""A LoRA adapter with an output layer of K rows behind it, in PEFT's layout for SEQ_CLS: what kinds with a head have in common.

What the rows mean is the kind's own affair, and stands in a file of its own beside these two. What is read may come from
anyone, so `read` refuses what does not fit the base exactly.

Dimensions: K rows, D model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from . import lora, peft_files
from .artifact import Artifact, ArtifactError, check_bound
from .lora import AdapterConfig
from .peft_files import CONFIG_NAME, WEIGHTS_NAME

SCORE = "base_model.model.score.weight"
MODULES_TO_SAVE = ["classifier", "score"]
"""PEFT's own list for SEQ_CLS, of which a model has one."""
# Hidden states behind the last norm are of size 1 to 100, and differences of 20 between logits are certainty.
MAX_VALUE = 1e4
_OF_LORA = frozenset(field.name for field in fields(AdapterConfig))


def artifact(
    kind: str, config: AdapterConfig, tensors: Mapping[str, Tensor], own: Mapping[str, Any]
) -> Artifact:
    """LoRA's tensors, named by `lora.peft_name`, and `SCORE` (K, D); `own` is what the kind's spec has beside LoRA's."""
    adapter = lora.artifact(config, tensors)
    spec = {**adapter.spec, **own}
    return Artifact(kind, spec, tensors, adapter.base_model, adapter.base_revision)


def adapter_of(artifact: Artifact) -> Artifact:
    """The LoRA adapter alone."""
    spec = {name: value for name, value in artifact.spec.items() if name in _OF_LORA}
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


def read(
    folder: Path,
    base_config: PretrainedConfig,
    num_rows: int,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """As `lora.load`, and the output layer, which has so many rows. Raises `ArtifactError`."""
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
    expected = (num_rows, base_config.hidden_size)
    if tuple(score.shape) != expected:
        raise ArtifactError(
            f"{SCORE} has shape {tuple(score.shape)} where this base and a head of {num_rows} rows need {expected}"
        )
    config, layers = lora.understood(
        raw, tensors, base_config, base_model=base_model, base_revision=base_revision
    )
    return config, {**lora.of_layers(config, layers).tensors, SCORE: score}
