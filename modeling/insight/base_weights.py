"""A base's weights, read one at a time, and the singular vectors of some of them, which are computed once and kept in files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from modeling.artifacts.model_tensors import EMBEDDING, HEAD
from modeling.base_folder import weight_files

from .factored import Factored, generator_of

LEADING = 16
"""So many of the largest singular values are found without the rest."""
ROUNDS = 12


class BaseWeights:
    """`kept` is a folder of this base's alone: nothing in it is ever of another."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self.config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._kept = kept
        self._files: dict[str, Path] = {}
        for file in weight_files(folder):
            with safe_open(file, framework="pt") as tensors:
                self._files |= dict.fromkeys(tensors.keys(), file)

    def weight(self, name: str) -> Tensor:
        """In float64. A head that is the embedding is that."""
        if name == HEAD and name not in self._files:
            name = EMBEDDING
        with safe_open(self._files[name], framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name)
        return found.double()

    def singular(self, name: str) -> tuple[Tensor, Tensor]:
        """All left singular vectors (O, K) and values (K,) of a weight."""
        path = self._kept / "singular" / f"{name}.safetensors"
        try:
            found = safetensors.torch.load_file(path)
        except (OSError, SafetensorError):
            whole = Factored.of_matrix(self.weight(name))
            found = {"left": whole.left.float().contiguous(), "values": whole.values}
            save(path, found)
        return found["left"].double(), found["values"].double()

    def tenth_value(self, name: str) -> float:
        """The tenth largest singular value, or the last of fewer: by subspace iteration, which is enough for a screen."""
        path = self._kept / "tenth_values.json"
        try:
            known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if name not in known:
            known[name] = _tenth_value(self.weight(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, json.dumps(known).encode())
        return known[name]


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    """The file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, safetensors.torch.save(tensors))


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _tenth_value(weight: Tensor) -> float:
    num = min(*weight.shape, 2 * LEADING)
    block = torch.randn(
        weight.shape[1], num, dtype=weight.dtype, generator=generator_of(0, "leading")
    )
    for _ in range(ROUNDS):
        block = torch.linalg.qr(weight.T @ (weight @ block))[0]
    values = torch.linalg.svdvals(weight @ block)
    return float(values[min(9, len(values) - 1)])
