"""What training needs to know of what it changes, whatever its kind. It is in the model from construction to `detach`.

Parameters are fp32, also where the model computes in bf16: a step is often smaller than what bf16 can tell
apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling import attention
from modeling.artifacts.artifact import Artifact
from modeling.layout import Layout


class PackedRow(NamedTuple):
    """Sequences end to end, on the model's device; what several of them begin with lies there once."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64
    layout: Layout


Beginning = Callable[[int], Tensor]
"""(n,) int64 or fewer: so many tokens that the texts to train on commonly begin with."""


class Trainable(Protocol):
    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """fp32, each once."""
        ...

    @property
    def head(self) -> nn.Parameter | None:
        """The one among them that is the output layer's weight (V, D), if that trains."""
        ...

    @property
    def output(self) -> Tensor | None:
        """(K, D): what hidden states are scored with in the place of the base's output layer; None: that."""
        ...

    @property
    def artifact_is_exact(self) -> bool:
        """Whether an artifact holds the parameters bit for bit. If not, a checkpoint keeps them beside it."""
        ...

    def begin(self, beginning: Beginning) -> None:
        """Training begins anew, with nothing to go on from: what the start depends on beside the seed."""

    def hidden_states(self, row: PackedRow) -> Tensor:
        """(T, D), behind the last norm."""
        ...

    def refresh(self) -> None:
        """The parameters have changed: let the model compute with what they are now."""

    def set_aside(self) -> AbstractContextManager[None]:
        """The model is its plain self within."""
        ...

    def detach(self) -> None:
        """Give the model back as it was."""

    def artifact(self, base_model: str) -> Artifact:
        """A copy of what is in training."""
        ...

    def take_over(self, artifact: Artifact) -> None:
        """Go on from what was trained before. Raises `ArtifactError`."""


def hidden_states(
    model: PreTrainedModel, row: PackedRow, prefix: attention.Prefix | None = None
) -> Tensor:
    """What the model makes of a packed row (T, D)."""
    with attention.segments(row.layout, prefix):
        output = model.base_model(
            input_ids=row.input_ids[None],  # (1, T)
            position_ids=row.position_ids[None],
            use_cache=False,
        )
    states: Tensor = output.last_hidden_state[0]
    return states
