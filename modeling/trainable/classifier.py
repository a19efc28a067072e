"""LoRA with an output layer of its own, which reads a text's last hidden state and has a row for each label.

Dimensions: K labels, D model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts import classifier as files
from modeling.artifacts import lora as adapter_files
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.classifier import SCORE

from .lora import LoraTrainable, initial_A
from .trainable import Beginning, PackedRow


class ClassifierTrainable:
    """`head` (K, D) stands in the place of the base's output layer: what is scored there are its rows."""

    artifact_is_exact = True

    def __init__(
        self, adapter: LoraTrainable, labels: tuple[str, ...], model: PreTrainedModel, seed: int
    ) -> None:
        """The head begins small, as a function of the seed alone: nearly all labels are alike probable."""
        self._adapter = adapter
        self._labels = labels
        initial = initial_A(seed, SCORE, len(labels), model.config.hidden_size)
        self.head = nn.Parameter(initial.to(model.device, torch.float32))
        self.parameters = {**adapter.parameters, SCORE: self.head}

    def begin(self, beginning: Beginning) -> None:
        self._adapter.begin(beginning)

    def hidden_states(self, row: PackedRow) -> Tensor:
        return self._adapter.hidden_states(row)

    def refresh(self) -> None:
        self._adapter.refresh()

    def set_aside(self) -> AbstractContextManager[None]:
        return self._adapter.set_aside()

    def detach(self) -> None:
        self._adapter.detach()

    def artifact(self, base_model: str) -> Artifact:
        adapter = self._adapter.artifact(base_model)
        score = self.head.detach().to("cpu", copy=True)
        tensors = {**adapter.tensors, SCORE: score}
        return files.artifact(adapter_files.config_of(adapter), tensors, self._labels)

    def take_over(self, artifact: Artifact) -> None:
        if tuple(artifact.spec["labels"]) != self._labels:
            raise ArtifactError("the classifier to go on from has other labels")
        self._adapter.take_over(files.adapter_of(artifact))
        self.head.data.copy_(artifact.tensors[SCORE])
