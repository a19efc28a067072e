"""Copies of a model's parameters in their places, to be trained while the model's own stay as they are.

What trains is fp32. Where the model computes in bf16 it computes with a second, rounded copy: a step of 1e-5 leaves
94 % of such weights where they are, so they could not add up steps themselves. Gradients are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.merge import Merge

from .places import Overlay, Place, places_of, tied_places
from .trainable import Beginning


class Copies:
    """They are in the model from construction to `detach`: what kinds of trainables that are such copies have in common."""

    artifact_is_exact = False
    output = None
    head: nn.Parameter | None = None
    """The one of them that is the output layer's weight."""

    def __init__(
        self,
        model: PreTrainedModel,
        names: Collection[str] | None = None,
        merge: Merge | None = None,
    ) -> None:
        """Of the parameters of these names, each untied from any other; None: of all, tied as they are.

        They begin as the model's own, or as what `merge` makes of those.
        """
        self.parameters: dict[str, nn.Parameter] = {}
        self._computed: dict[str, nn.Parameter] = {}
        places = tied_places(model) if names is None else places_of(model, names)
        head_place: Place = (model.get_output_embeddings(), "weight")  # type: ignore[no-untyped-call]
        filling: dict[Place, nn.Parameter] = {}
        for name, of_name in places.items():
            module, attribute = of_name[0]
            original: Tensor = getattr(module, attribute).detach()
            begun = original if merge is None else merge.weight(name, original)
            parameter = nn.Parameter(begun.to(torch.float32, copy=True))
            computed = parameter
            if original.dtype != torch.float32:
                computed = nn.Parameter(begun.to(original.dtype, copy=True))
                hook = partial(_hand_on, parameter)
                computed.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            self.parameters[name], self._computed[name] = parameter, computed
            filling |= dict.fromkeys(of_name, computed)
            if head_place in of_name:
                self.head = parameter
        self._overlay = Overlay(filling)

    def begin(self, beginning: Beginning) -> None:
        """Where they begin is settled."""

    @torch.no_grad()
    def refresh(self) -> None:
        """Round anew what the model computes with."""
        for name, parameter in self.parameters.items():
            if self._computed[name] is not parameter:
                self._computed[name].copy_(parameter)

    @torch.no_grad()
    def take_over(self, artifact: Artifact) -> None:
        """Go on from its tensors. Raises ArtifactError."""
        tensors = artifact.tensors
        if different := sorted(tensors.keys() ^ self.parameters.keys()):
            raise ArtifactError(f"the model to go on from differs in whether it has {different[0]}")
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])
        self.refresh()

    def set_aside(self) -> AbstractContextManager[None]:
        """The model is its plain self within."""
        return self._overlay.set_aside()

    def detach(self) -> None:
        """Give the model back as it was."""
        self._overlay.take_out()


def _hand_on(parameter: nn.Parameter, computed: Tensor) -> None:
    """What came for the rounded copy is the parameter's."""
    assert computed.grad is not None
    grad = computed.grad.float()
    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
    computed.grad = None
