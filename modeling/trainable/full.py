"""Full tuning: every parameter of a copy of the base trains. The base itself, which other jobs share, stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling.artifacts import full as files
from modeling.artifacts import lora
from modeling.artifacts.artifact import Artifact

from . import trainable
from .copies import Copies
from .trainable import PackedRow


class FullTrainable(Copies):
    """A tied embedding is one parameter, with the gradient of both its uses."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._model = model

    def hidden_states(self, row: PackedRow) -> Tensor:
        return trainable.hidden_states(self._model, row)

    def artifact(self, base_model: str) -> Artifact:
        return files.artifact(self._model.config, self.parameters, base_model=base_model)

    @torch.no_grad()
    def take_over(self, artifact: Artifact) -> None:
        """An adapter is merged into what is the base's until then."""
        if artifact.kind != lora.KIND:
            super().take_over(artifact)
            return
        for module, (a, b, scale) in lora.layers(artifact).items():
            weight = self.parameters[f"{module}.weight"]
            weight.add_((scale * (b @ a)).to(weight.device))
        self.refresh()
