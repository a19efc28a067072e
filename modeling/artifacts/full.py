"""The kind `full` on disk: a folder that transformers loads, config.json and model.safetensors in bf16.

Its config is the base's; whether the head is tied to the embedding is the one thing that may differ.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from . import files, model_tensors
from .artifact import Artifact, ArtifactError

KIND = "full"

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

# What says nothing of what the model computes.
_INCIDENTAL = frozenset({"_name_or_path", "architectures", "dtype", "transformers_version"})
_TIED = "tie_word_embeddings"


def artifact(
    config: PretrainedConfig,
    tensors: Mapping[str, Tensor],
    *,
    base_model: str = "",
    base_revision: str = "",
) -> Artifact:
    """Weights named as the model's parameters are, a tied one once."""
    rounded = model_tensors.rounded(tensors)
    return Artifact(KIND, {}, rounded, base_model, base_revision, config=_written(config))


def config_of(artifact: Artifact, base_config: PretrainedConfig) -> PretrainedConfig:
    """The base's, tied as the artifact is."""
    return with_head(base_config, is_tied=artifact.config[_TIED])


def with_head(base_config: PretrainedConfig, *, is_tied: bool) -> PretrainedConfig:
    """The base's, but for whether its output layer is the embedding."""
    config = copy.deepcopy(base_config)
    config.tie_word_embeddings = is_tied
    return config


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    model_tensors.check_values(artifact.tensors)


def write(folder: Path, artifact: Artifact) -> None:
    model_tensors.save(folder / WEIGHTS_NAME, artifact.tensors)
    files.write_json(folder / CONFIG_NAME, artifact.config)


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    """Which base it began as, such a folder does not say: the config must be the base's own."""
    raw = files.read_json(folder / CONFIG_NAME)
    is_tied = raw.get(_TIED, base_config.tie_word_embeddings)
    if not isinstance(is_tied, bool):
        raise ArtifactError(f"{CONFIG_NAME} has {_TIED} {is_tied!r}")
    config = with_head(base_config, is_tied=is_tied)
    expected = _written(config)
    if "auto_map" in raw or "quantization_config" in raw:
        raise ArtifactError(f"{CONFIG_NAME} asks for code of its own or quantised weights")
    for name in expected.keys() - _INCIDENTAL:
        if name in raw and raw[name] != expected[name]:
            raise ArtifactError(
                f"{CONFIG_NAME} has {name} {raw[name]!r} where this base has {expected[name]!r}: it was made "
                "for another base model"
            )
    if raw.get("model_type") != expected["model_type"]:
        raise ArtifactError(f"{CONFIG_NAME} does not name the model type of this base")
    tensors = model_tensors.load(folder / WEIGHTS_NAME, model_tensors.shapes_of(config))
    return artifact(config, tensors, base_model=base_model or "", base_revision=base_revision or "")


def _written(config: PretrainedConfig) -> dict[str, Any]:
    """As JSON gives it back."""
    written: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    del written["_name_or_path"]
    return written | {"dtype": "bfloat16"}
