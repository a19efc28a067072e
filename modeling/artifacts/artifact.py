"""An artifact: what training made on top of a base, as named tensors and what they mean."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig


class ArtifactError(Exception):
    """The artifact cannot be used; the message says why."""


@dataclass(frozen=True)
class Artifact:
    kind: str
    spec: dict[str, Any]
    """What is particular to its kind, as JSON gives it back; a LoRA adapter's rank, for example."""
    tensors: Mapping[str, Tensor]
    """On the CPU, under their names in the kind's format."""
    base_model: str = ""
    base_revision: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The config.json of what is a model of its own; empty for what lies on top of a base."""

    def manifest(self) -> dict[str, Any]:
        """What to know of it without its weights: of each tensor the dtype, the shape and the SHA-256 of its bytes."""
        tensors = {
            name: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "sha256": _sha256(tensor),
            }
            for name, tensor in self.tensors.items()
        }
        return {"kind": self.kind, "spec": self.spec, "tensors": tensors}


class Format(Protocol):
    """How one kind of artifact lies in a folder. Its functions raise `ArtifactError`."""

    def check(self, artifact: Artifact) -> None:
        """Refuses weights that no base could bear."""

    def write(self, folder: Path, artifact: Artifact) -> None:
        """Makes the folder if it is missing."""

    def read(
        self,
        folder: Path,
        base_config: PretrainedConfig,
        *,
        base_model: str | None = None,
        base_revision: str | None = None,
    ) -> Artifact:
        """What lies there may come from anyone: what cannot be applied exactly to that base is refused."""


def check_base(
    named: str, named_revision: str, base_model: str | None, base_revision: str | None
) -> None:
    """Refuses an adapter that names another base than the given one, as far as both are known."""
    if base_model and named and named != base_model:
        raise ArtifactError(f"the adapter was made for {named}, not for {base_model}")
    if base_revision and named_revision and named_revision != base_revision:
        raise ArtifactError(
            f"the adapter was made for revision {named_revision} of {named or 'its base'}, not {base_revision}"
        )


def check_bound(name: str, what: str, value: float, limit: float) -> None:
    """Refuses what no base could bear: beyond the limit, or not a number."""
    if not value <= limit:  # NaN is not, either
        raise ArtifactError(
            f"{name} has {what} of {value:.3g} where {limit:g} is more than any base bears: the "
            "training it comes from diverged"
        )


def _sha256(tensor: Tensor) -> str:
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()
