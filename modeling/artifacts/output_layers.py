"""The kind `output_layers` on disk: the base's last blocks and its final norm, and the head where that was trained.

output_layers.safetensors has the changed tensors in bf16 under the base's own names, output_layers.json says which
they are and of which base. A trained head is the model's own: it is not tied to the embedding any more.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from transformers import PretrainedConfig

from . import files, model_tensors
from .artifact import Artifact, ArtifactError, check_base
from .model_tensors import HEAD, Shapes

T = TypeVar("T")

KIND = "output_layers"

CONFIG_NAME = "output_layers.json"
WEIGHTS_NAME = "output_layers.safetensors"


def artifact(
    tensors: Mapping[str, Tensor],
    *,
    num_blocks: int,
    train_head: bool,
    base_model: str = "",
    base_revision: str = "",
) -> Artifact:
    """The tensors of `trained_shapes`."""
    spec = {"num_blocks": num_blocks, "train_head": train_head}
    return Artifact(KIND, spec, model_tensors.rounded(tensors), base_model, base_revision)


def untied(base_config: PretrainedConfig, *, train_head: bool) -> PretrainedConfig:
    """The base's config, with a head of its own if that is trained."""
    config = copy.deepcopy(base_config)
    config.tie_word_embeddings = config.tie_word_embeddings and not train_head
    return config


def trained_shapes(base_config: PretrainedConfig, *, num_blocks: int, train_head: bool) -> Shapes:
    """Of the weights that training changes, by the base's own names. Raises `ArtifactError`."""
    num_layers = base_config.num_hidden_layers
    if not 1 <= num_blocks <= num_layers:
        raise ArtifactError(f"{num_blocks} blocks are not between 1 and the base's {num_layers}")
    beginnings = [f"model.layers.{i}." for i in range(num_layers - num_blocks, num_layers)]
    beginnings += ["model.norm."] + [HEAD] * train_head
    shapes = model_tensors.shapes_of(untied(base_config, train_head=train_head))
    return {name: shape for name, shape in shapes.items() if name.startswith(tuple(beginnings))}


def check(artifact: Artifact) -> None:
    """Refuses weights that no base could bear."""
    model_tensors.check_values(artifact.tensors)


def write(folder: Path, artifact: Artifact) -> None:
    model_tensors.save(folder / WEIGHTS_NAME, artifact.tensors)
    named = {"base_model": artifact.base_model, "base_revision": artifact.base_revision}
    files.write_json(folder / CONFIG_NAME, artifact.spec | named)


def read(
    folder: Path,
    base_config: PretrainedConfig,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
) -> Artifact:
    raw = files.read_json(folder / CONFIG_NAME)
    num_blocks = _typed(raw, "num_blocks", int)
    train_head = _typed(raw, "train_head", bool)
    base = _typed(raw, "base_model", str)
    revision = _typed(raw, "base_revision", str)
    check_base(base, revision, base_model, base_revision)
    shapes = trained_shapes(base_config, num_blocks=num_blocks, train_head=train_head)
    return artifact(
        model_tensors.load(folder / WEIGHTS_NAME, shapes),
        num_blocks=num_blocks,
        train_head=train_head,
        base_model=base,
        base_revision=revision,
    )


def _typed(raw: Mapping[str, Any], name: str, wanted: type[T]) -> T:
    value = raw.get(name)
    if type(value) is not wanted:
        raise ArtifactError(f"{CONFIG_NAME} has {name} {value!r}, which is no {wanted.__name__}")
    return value
