"""A trainable on a base with a tuned model merged into it.

The base itself, which other jobs share, stays as it is: merged weights, in the precision that is computed in, take its places
while the job is at work. What is published is put together anew from the base, what was merged and what was trained,
in fp32, and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling.artifacts import full, lora, model_tensors, output_layers
from modeling.artifacts.artifact import Artifact, ArtifactError
from modeling.artifacts.merge import Merge

from .places import Overlay, Place, places_of, tied_places
from .stacked import stacked
from .trainable import Beginning, PackedRow, Trainable


class MergedTrainable:
    artifact_is_exact = False

    def __init__(
        self,
        model: PreTrainedModel,
        start: Artifact,
        attach: Callable[[Merge], Trainable],
        *,
        trained: Collection[str],
        seed: int,
    ) -> None:
        """`attach` puts what trains onto the merged base. If those are copies of weights, they begin as the merge makes
        them, and `trained` are their names. Raises ArtifactError for a kind that cannot be merged."""
        self._model, self._start, self._seed = model, start, seed
        is_tied = bool(model.config.tie_word_embeddings)
        self._merge = Merge(start, base_is_tied=is_tied)
        self._weights = dict(model.named_parameters(remove_duplicate=False))
        """The base's own, under all their names."""
        self._tied = tied_places(model)
        self._places = self._tied if self._merge.is_tied else places_of(model, self._weights)
        self._overlay = Overlay(self._filling(self._merge.names - set(trained)))
        try:
            self._inner = attach(self._merge)
        except BaseException:
            self._overlay.take_out()
            raise

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._inner.parameters

    @property
    def head(self) -> nn.Parameter | None:
        return self._inner.head

    @property
    def output(self) -> Tensor | None:
        return self._inner.output

    def begin(self, beginning: Beginning) -> None:
        self._inner.begin(beginning)

    def hidden_states(self, row: PackedRow) -> Tensor:
        return self._inner.hidden_states(row)

    def refresh(self) -> None:
        self._inner.refresh()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        with self._inner.set_aside(), self._overlay.set_aside():
            yield

    def detach(self) -> None:
        self._inner.detach()
        self._overlay.take_out()

    def take_over(self, artifact: Artifact) -> None:
        del artifact
        raise ArtifactError("a model does not tell what was merged from what was trained on it")

    @torch.no_grad()
    def artifact(self, base_model: str) -> Artifact:
        """Of the smallest kind that holds all that is not the base's."""
        trained = self._inner.artifact(base_model)
        config = self._model.config
        match self._start.kind, trained.kind:
            case lora.KIND, lora.KIND:
                return stacked(self._start, trained, config, self._seed)
            case output_layers.KIND, output_layers.KIND:
                specs = (self._start.spec, trained.spec)
                num_blocks = max(spec["num_blocks"] for spec in specs)
                train_head = any(spec["train_head"] for spec in specs)
                shapes = output_layers.trained_shapes(
                    config, num_blocks=num_blocks, train_head=train_head
                )
                return output_layers.artifact(
                    self._together(trained, shapes),
                    num_blocks=num_blocks,
                    train_head=train_head,
                    base_model=base_model,
                )
        is_tied = Merge(trained, base_is_tied=self._merge.is_tied).is_tied
        return full.artifact(
            full.with_head(config, is_tied=is_tied),
            self._together(trained, self._tied if is_tied else self._weights),
            base_model=base_model,
        )

    def _filling(self, names: Collection[str]) -> dict[Place, nn.Parameter]:
        """What is merged, in the base's places of these names."""
        filling: dict[Place, nn.Parameter] = {}
        for name in names:
            base, own = self._weights[name].detach(), self._merge.own.get(name)
            # The tensor itself where it is as the model computes: of a whole model that is half the memory.
            merged = own if own is not None else self._merge.weight(name, base)
            merged = merged.to(base.device, base.dtype)
            parameter = nn.Parameter(merged, requires_grad=False)
            filling |= dict.fromkeys(self._places[name], parameter)
        return filling

    def _together(self, trained: Artifact, names: Collection[str]) -> dict[str, Tensor]:
        """The weights of these names with all that was merged and trained, rounded."""
        last = Merge(trained, base_is_tied=self._merge.is_tied)
        tensors: dict[str, Tensor] = {}
        for name in names:
            merged = self._merge.weight(name, self._weights[name].detach())
            tensors |= model_tensors.rounded({name: last.weight(name, merged)})
        return tensors
