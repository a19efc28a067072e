"""Copies of a model's parameters in their places, to be trained while the model's own stay as they are.

What trains is fp32. Where the model computes in bf16 it computes with a second, rounded copy: a step of 1e-5 leaves
94 % of such weights where they are, so they could not add up steps themselves. Gradients are summed in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts.artifact import Artifact, ArtifactError

from .trainable import Beginning

_Place = tuple[nn.Module, str]
"""A module, and what it calls the parameter."""


class Copies:
    """They are in the model from construction to `detach`: what kinds of trainables that are such copies have in common."""

    artifact_is_exact = False
    output = None
    head: nn.Parameter | None = None
    """The one of them that is the output layer's weight."""

    def __init__(self, model: PreTrainedModel, names: Collection[str] | None = None) -> None:
        """Of the parameters of these names, each untied from any other; None: of all, tied as they are."""
        self.parameters: dict[str, nn.Parameter] = {}
        self._computed: dict[str, nn.Parameter] = {}
        self._places = _tied_places(model) if names is None else _places_of(model, names)
        self._originals = {
            place: _at(place) for places in self._places.values() for place in places
        }
        head_place = (model.get_output_embeddings(), "weight")  # type: ignore[no-untyped-call]
        for name, places in self._places.items():
            original = _at(places[0])
            parameter = nn.Parameter(original.detach().to(torch.float32, copy=True))
            computed = parameter
            if original.dtype != torch.float32:
                computed = nn.Parameter(original.detach().clone())
                hook = partial(_hand_on, parameter)
                computed.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
            self.parameters[name], self._computed[name] = parameter, computed
            if head_place in places:
                self.head = parameter
        self._put_in()

    def begin(self, beginning: Beginning) -> None:
        """They begin as the base."""

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

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """The model is its plain self within."""
        self._take_out()
        try:
            yield
        finally:
            self._put_in()

    def detach(self) -> None:
        """Give the model back as it was."""
        self._take_out()

    def _take_out(self) -> None:
        """Put the model's own parameters back, the very objects."""
        for (module, attribute), original in self._originals.items():
            setattr(module, attribute, original)

    def _put_in(self) -> None:
        for name, places in self._places.items():
            for module, attribute in places:
                setattr(module, attribute, self._computed[name])


def _hand_on(parameter: nn.Parameter, computed: Tensor) -> None:
    """What came for the rounded copy is the parameter's."""
    assert computed.grad is not None
    grad = computed.grad.float()
    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
    computed.grad = None


def _tied_places(model: nn.Module) -> dict[str, list[_Place]]:
    """Every parameter by the first of its names, with all its places."""
    first_names: dict[int, str] = {}
    places: dict[str, list[_Place]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        places.setdefault(first, []).append(_place(model, name))
    return places


def _places_of(model: nn.Module, names: Collection[str]) -> dict[str, list[_Place]]:
    return {name: [_place(model, name)] for name in names}


def _place(model: nn.Module, name: str) -> _Place:
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def _at(place: _Place) -> nn.Parameter:
    module, attribute = place
    parameter: nn.Parameter = getattr(module, attribute)
    return parameter
