"""A base with a tuned model merged in, a tensor at a time: never more of it is in memory than the largest one needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from modeling.artifacts import lora
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.kinds import format_of
from modeling.artifacts.model_tensors import HEAD
from modeling.base_folder import weight_files

OnProgress = Callable[[float], None]
"""Gets the share that is done."""


class TransferFailed(Exception):
    """What was asked for cannot be done; the message says why, for the model's owner to read."""


class Merged:
    """`names` are the base's own, in the order of its files; those that the base ties are there once."""

    def __init__(self, base: Path, artifact: Artifact) -> None:
        """Raises TransferFailed."""
        self.base = base
        self.raw_config: dict[str, Any] = json.loads(
            (base / "config.json").read_text(encoding="utf-8")
        )
        self.config = base_config(base)
        self._files = {name: file for file in weight_files(base) for name in _names(file)}
        self._change = _change_of(artifact)
        self._own = _own_tensors(artifact)
        if HEAD in self._own:
            # The base may tie its head to the embedding, which did not learn along.
            self.raw_config["tie_word_embeddings"] = self.config.tie_word_embeddings = False
        strange = self._own.keys() - self._files.keys() - {HEAD}
        if strange:
            raise TransferFailed(f"the base has no tensor {sorted(strange)[0]}")
        names = [name for name in self._files if not (name == HEAD and self.is_tied)]
        self.names = names + [name for name in self._own if name not in self._files]

    @property
    def is_tied(self) -> bool:
        return bool(self.config.tie_word_embeddings)

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._own:
            return tuple(self._own[name].shape)
        with safe_open(self._files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def tensors(self, on_progress: OnProgress) -> Iterator[tuple[str, Tensor]]:
        """In fp32, all of them finite. Raises TransferFailed."""
        sizes = {name: _size(self.shape(name)) for name in self.names}
        done, total = 0, sum(sizes.values())
        for name in self.names:
            value = self._tensor(name)
            if not bool(torch.isfinite(value).all()):
                raise TransferFailed(f"{name} is not finite once it is merged")
            yield name, value
            done += sizes[name]
            on_progress(done / total)

    def _tensor(self, name: str) -> Tensor:
        if name in self._own:
            return self._own[name].to(torch.float32)
        with safe_open(self._files[name], framework="pt") as file:
            value: Tensor = file.get_tensor(name).to(torch.float32)
        return self._change(name, value)


def base_config(base: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(
        base, local_files_only=True, trust_remote_code=False
    )
    return config


def read(folder: Path, kind: str, base: Path) -> Artifact:
    """The artifact in `folder`, checked. Raises ArtifactError."""
    return format_of(kind).read(folder, base_config(base))


def _change_of(artifact: Artifact) -> Callable[[str, Tensor], Tensor]:
    if artifact.kind != lora.KIND:
        return lambda _, value: value
    layers = lora.layers(artifact)

    def add(name: str, value: Tensor) -> Tensor:
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            return value
        a, b, scale = layer
        return value + scale * (b.to(torch.float32) @ a.to(torch.float32))

    return add


def _own_tensors(artifact: Artifact) -> Mapping[str, Tensor]:
    """Tensors that stand in the place of the base's."""
    if artifact.kind == lora.KIND:
        return {}
    if artifact.kind in ("full", "output_layers"):
        return artifact.tensors
    raise TransferFailed(
        f"A model of the kind '{artifact.kind}' is not a change of its base's weights, so it cannot be merged "
        "into them. Export it with the format 'peft'."
    )


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        names: list[str] = tensors.keys()
    return names
