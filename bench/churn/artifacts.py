"""Small artifacts of every kind that is served, with random weights, and some that nobody should take."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.serving import adapters
from modeling.artifacts import full, lora, model_tensors, output_layers, prefix
from modeling.artifacts.lora import AdapterConfig
from modeling.base import load_base
from serving.adapters.ref import AdapterRef
from storage.blobs.blobs import BlobStore

BAD = ("not finite", "another base")


class Publisher:
    """Puts artifacts of one base into a blob store, each under an id of its own."""

    def __init__(
        self,
        base_path: Path,
        base_id: str,
        blobs: BlobStore,
        chance: random.Random,
        *,
        first: int = 0,
    ) -> None:
        """`first` is what ids are counted from."""
        self._model: PreTrainedModel = load_base(
            base_path, precision="fp32", attn_implementation="sdpa"
        )
        self._base_id = base_id
        self._blobs = blobs
        self._chance = chance
        # Several threads publish.
        self._numbers = itertools.count(first)
        self._writers: dict[str, Callable[[Path], None]] = {
            lora.KIND: self._lora,
            prefix.KIND: self._prefix,
            output_layers.KIND: self._output_layers,
            full.KIND: self._full,
        }

    def publish(self, kind: str) -> AdapterRef:
        """A new artifact; of a kind of `BAD` one that must be refused."""
        is_bad = kind in BAD
        with tempfile.TemporaryDirectory(prefix="churn-") as folder:
            if is_bad:
                self._lora(Path(folder), problem=kind)
            else:
                self._writers[kind](Path(folder))
            return adapters.upload(
                self._blobs,
                Path(folder),
                id=f"churn-{next(self._numbers)}",
                kind=lora.KIND if is_bad else kind,
            )

    def _lora(self, folder: Path, problem: str = "") -> None:
        rank = self._chance.choice((1, 4, 7, 16))
        tensors: dict[str, Tensor] = {}
        for name, (num_out, num_in) in lora.linear_shapes(self._model.config).items():
            tensors[lora.peft_name(name, "A")] = self._normal(rank, num_in) / num_in**0.5
            tensors[lora.peft_name(name, "B")] = self._normal(num_out, rank) / rank**0.5
        if problem == "not finite":
            next(iter(tensors.values()))[0, 0] = float("nan")
        base = "another-base" if problem == "another base" else self._base_id
        lora.save(folder, AdapterConfig(rank, float(rank), lora.TARGET_MODULES, base), tensors)

    def _prefix(self, folder: Path) -> None:
        num_layers, num_heads, size = prefix.shape(self._model.config)
        keys_values = self._normal(8, num_layers, 2, num_heads, size)
        prefix.write(folder, prefix.artifact(keys_values, self._base_id))

    def _output_layers(self, folder: Path) -> None:
        shapes = output_layers.trained_shapes(self._model.config, num_blocks=1, train_head=False)
        artifact = output_layers.artifact(
            self._moved(shapes), num_blocks=1, train_head=False, base_model=self._base_id
        )
        output_layers.write(folder, artifact)

    def _full(self, folder: Path) -> None:
        config = self._model.config
        full.write(folder, full.artifact(config, self._moved(model_tensors.shapes_of(config))))

    def _moved(self, shapes: model_tensors.Shapes) -> dict[str, Tensor]:
        """The base's weights after some training."""
        there = dict(self._model.named_parameters())
        return {name: there[name].detach() + 0.1 * self._normal(*shapes[name]) for name in shapes}

    def _normal(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._chance.randrange(1 << 30))
        return torch.randn(shape, generator=generator)
