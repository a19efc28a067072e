"""LoRA with a head of its own, whose rows read a text's last hidden state in the place of the base's output layer.

What the rows mean is their kind's affair: `ClassifierTrainable` has one for each label.

Dimensions: K rows, D model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts import classifier
from modeling.artifacts import lora as adapter_files
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.head import SCORE, adapter_of
from modeling.artifacts.lora import AdapterConfig

from .lora import LoraTrainable, initial_A
from .trainable import Beginning, PackedRow


class HeadTrainable(ABC):
    """`head` (K, D) is what hidden states are scored with."""

    artifact_is_exact = True

    def __init__(
        self, adapter: LoraTrainable, num_rows: int, model: PreTrainedModel, seed: int
    ) -> None:
        """The head begins small, as a function of the seed alone: nearly all rows say the same."""
        self._adapter = adapter
        initial = initial_A(seed, SCORE, num_rows, model.config.hidden_size)
        self.head = nn.Parameter(initial.to(model.device, torch.float32))
        self.parameters = {**adapter.parameters, SCORE: self.head}

    @abstractmethod
    def _artifact(self, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> Artifact:
        """Of the kind, with what its rows mean."""

    @abstractmethod
    def _check_rows(self, artifact: Artifact) -> None:
        """Raises `ArtifactError` for one whose rows mean something else."""

    @property
    def output(self) -> Tensor:
        return self.head

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
        return self._artifact(adapter_files.config_of(adapter), {**adapter.tensors, SCORE: score})

    def take_over(self, artifact: Artifact) -> None:
        self._check_rows(artifact)
        self._adapter.take_over(adapter_of(artifact))
        self.head.data.copy_(artifact.tensors[SCORE])


class ClassifierTrainable(HeadTrainable):
    def __init__(
        self, adapter: LoraTrainable, labels: tuple[str, ...], model: PreTrainedModel, seed: int
    ) -> None:
        super().__init__(adapter, len(labels), model, seed)
        self._labels = labels

    def _artifact(self, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> Artifact:
        return classifier.artifact(config, tensors, self._labels)

    def _check_rows(self, artifact: Artifact) -> None:
        if tuple(artifact.spec["labels"]) != self._labels:
            raise ArtifactError("the classifier to go on from has other labels")
