"""Full tuning: every parameter of a copy of the base trains. The base itself, which other jobs share, stays as it is."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts import full as files
from modeling.artifacts import lora
from modeling.artifacts.artifact import Artifact

from . import trainable
from .copies import Copies
from .trainable import Beginning, PackedRow


class FullTrainable:
    """A tied embedding is one parameter, with the gradient of both its uses."""

    artifact_is_exact = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._copies = Copies(model)
        self.parameters = self._copies.parameters

    @property
    def head(self) -> nn.Parameter | None:
        return self._copies.head

    def begin(self, beginning: Beginning) -> None:
        """It begins as the base."""

    def hidden_states(self, row: PackedRow) -> Tensor:
        return trainable.hidden_states(self._model, row)

    def refresh(self) -> None:
        self._copies.refresh()

    def set_aside(self) -> AbstractContextManager[None]:
        return self._copies.set_aside()

    def detach(self) -> None:
        self._copies.take_out()

    def artifact(self, base_model: str) -> Artifact:
        return files.artifact(self._model.config, self.parameters, base_model=base_model)

    @torch.no_grad()
    def take_over(self, artifact: Artifact) -> None:
        """An adapter is merged into what is the base's until then."""
        if artifact.kind != lora.KIND:
            self._copies.take_over(artifact.tensors)
            return
        for module, (a, b, scale) in lora.layers(artifact).items():
            weight = self.parameters[f"{module}.weight"]
            weight.add_((scale * (b @ a)).to(weight.device))
        self.refresh()
