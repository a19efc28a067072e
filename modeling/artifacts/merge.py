"""A tuned model merged into its base's weights: what each of them becomes. In fp32, so that who keeps less rounds once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import full, lora, output_layers
from .artifact import Artifact, ArtifactError
from .lora import LoadedAdapter
from .model_tensors import EMBEDDING, HEAD

KINDS = frozenset({lora.KIND, output_layers.KIND, full.KIND})
"""Those that are a change of weights."""


class Merge:
    """Names are the base's own, as its parameters have them."""

    def __init__(self, artifact: Artifact, *, base_is_tied: bool) -> None:
        """Raises ArtifactError for a kind that is no change of weights."""
        if artifact.kind not in KINDS:
            raise ArtifactError(
                f"a model of the kind '{artifact.kind}' is not a change of its base's weights"
            )
        is_lora = artifact.kind == lora.KIND
        self._layers: LoadedAdapter = lora.layers(artifact) if is_lora else {}
        self.own: Mapping[str, Tensor] = {} if is_lora else artifact.tensors
        """Tensors that stand in the place of the base's."""
        self.is_tied = base_is_tied and HEAD not in self.own
        """Whether the output layer still is the embedding."""

    @property
    def names(self) -> set[str]:
        """Of the weights that are not the base's."""
        return self.own.keys() | {f"{module}.weight" for module in self._layers}

    def weight(self, name: str, base: Tensor) -> Tensor:
        """What becomes of the base's, in fp32 on the same device; the base's own tensor where that is it."""
        own = self.own.get(name)
        if own is None and name == HEAD and self.is_tied:
            own = self.own.get(EMBEDDING)
        if own is not None:
            return own.to(base.device, torch.float32)
        weight = base.to(torch.float32)
        layer = self._layers.get(name.removesuffix(".weight"))
        if layer is None:
            return weight
        a, b, scale = layer
        return weight + scale * (b.to(weight) @ a.to(weight))
