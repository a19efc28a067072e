"""Full tuning: every parameter of a copy of the base trains. The base itself, which other jobs share, stays as it is."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from modeling.artifacts import full as files
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.merge import Merge

from . import trainable
from .copies import Copies
from .trainable import PackedRow


class FullTrainable(Copies):
    """A tied embedding is one parameter, with the gradient of both its uses."""

    def __init__(self, model: PreTrainedModel, merge: Merge | None = None) -> None:
        """What is merged may have untied the head."""
        self._model = model
        self._config = model.config
        names = None
        if merge is not None and not merge.is_tied:
            names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
            self._config = files.with_head(model.config, is_tied=False)
        super().__init__(model, names, merge)

    def hidden_states(self, row: PackedRow) -> Tensor:
        return trainable.hidden_states(self._model, row)

    def artifact(self, base_model: str) -> Artifact:
        return files.artifact(self._config, self.parameters, base_model=base_model)
