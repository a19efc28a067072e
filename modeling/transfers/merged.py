"""A base with a tuned model merged in, a tensor at a time: never more of it is in memory than the largest one needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.kinds import format_of
from modeling.artifacts.merge import Merge
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
        try:
            self._merge = Merge(artifact, base_is_tied=self.is_tied)
        except ArtifactError as error:
            raise TransferFailed(
                f"It cannot be merged into the base: {error}. Export it with the format 'peft'."
            ) from error
        self._own = self._merge.own
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
            return self._merge.weight(name, self._own[name])
        with safe_open(self._files[name], framework="pt") as file:
            return self._merge.weight(name, file.get_tensor(name))


def base_config(base: Path) -> PretrainedConfig:
    config: PretrainedConfig = AutoConfig.from_pretrained(
        base, local_files_only=True, trust_remote_code=False
    )
    return config


def read(folder: Path, kind: str, base: Path) -> Artifact:
    """The artifact in `folder`, checked. Raises ArtifactError."""
    return format_of(kind).read(folder, base_config(base))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        names: list[str] = tensors.keys()
    return names
