"""A tuned model on its base, of which there is one copy in memory: what the two make of the same tokens, by turns.

Dimensions: T tokens of a row, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling import attention
from modeling.artifacts import full, output_layers, prefix
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.merge import Merge
from modeling.base import Precision, choose_device, choose_precision, load_base
from modeling.layout import Layout
from modeling.trainable.full import FullTrainable
from modeling.trainable.lora import LoraLinear, LoraTrainable
from modeling.trainable.output_layers import OutputLayersTrainable
from modeling.trainable.prefix import PrefixTrainable
from modeling.trainable.trainable import PackedRow, Trainable

from .changes import NotMeasurable, adapter_of

MAX_PACKED_TOKENS = 2048
"""Of several rows that are computed as one. A longer row is computed by itself."""

Strength = Callable[[int, str], float]
"""Of a layer's number and a projection's name."""


@dataclass(frozen=True)
class TokenRow:
    ids: Sequence[int]  # (T,)
    weights: Sequence[float]  # (T,): what each token counts for; 0 of what is only read
    name: str = ""

    @property
    def scored(self) -> list[int]:
        """The tokens that count. Nothing predicts the first one."""
        return [place for place, weight in enumerate(self.weights) if weight and place]


class TunedModel:
    def __init__(
        self, folder: Path, artifact: Artifact, precision: Literal["auto"] | Precision = "auto"
    ) -> None:
        """Raises NotMeasurable for a model that writes nothing."""
        self.model: PreTrainedModel = load_base(
            folder,
            precision=choose_precision(precision),
            attn_implementation=attention.NAME,
            device=choose_device(),
        )
        self.device = self.model.device
        self._trainable = _attached(self.model, artifact)

    @property
    def adapted(self) -> dict[str, LoraLinear]:
        """Its low-rank parts by the names of their layers. Raises NotMeasurable where it has none."""
        if not isinstance(self._trainable, LoraTrainable):
            raise NotMeasurable("only a LoRA model can be taken apart by its layers")
        return dict(self._trainable.layers)

    @property
    def head(self) -> Tensor:
        """The weight (V, D) that hidden states are read with now."""
        weight: Tensor = self.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        return weight.detach()

    @property
    def logit_scale(self) -> float:
        """What some families multiply logits by."""
        return 1.0 / float(getattr(self.model.config, "logits_scaling", 1.0))

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within it is the plain base."""
        with self._trainable.set_aside():
            yield

    @contextmanager
    def at(self, strength: Strength) -> Iterator[None]:
        """Within each low-rank part counts as much as it says. Raises NotMeasurable."""
        layers = self.adapted
        scales = {name: layer.scale for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                parts = name.split(".")
                layer.scale = scales[name] * strength(int(parts[2]), parts[-1])
            yield
        finally:
            for name, layer in layers.items():
                layer.scale = scales[name]

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Hidden states (T, D) of each row, behind the last norm."""
        found: list[Tensor] = []
        for batch in _batches(rows):
            row = packed(batch, self.device)
            found += torch.split(self._trainable.hidden_states(row), [len(ids) for ids in batch])
        return found


def packed(rows: Sequence[Sequence[int]], device: torch.device) -> PackedRow:
    layout = Layout.of_lengths([len(ids) for ids in rows])
    ids = torch.tensor([token for each in rows for token in each], device=device)
    return PackedRow(ids, layout.position_ids().to(device), layout)


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    batch: list[Sequence[int]] = []
    num_tokens = 0
    for ids in rows:
        if batch and num_tokens + len(ids) > MAX_PACKED_TOKENS:
            yield batch
            batch, num_tokens = [], 0
        batch.append(ids)
        num_tokens += len(ids)
    if batch:
        yield batch


def _attached(model: PreTrainedModel, artifact: Artifact) -> Trainable:
    adapter = adapter_of(artifact) if artifact.kind == "lora" else None
    made: Trainable
    if adapter is not None:
        rank = max(a.shape[0] for a, _, _ in adapter.values())
        targets = tuple(sorted({name.rpartition(".")[2] for name in adapter}))
        # Of scale 1: that of the adapter goes into B.
        made = LoraTrainable(
            model,
            rank=rank,
            alpha=float(rank),
            target_modules=targets,
            use_rslora=False,
            seed=0,
        )
    elif artifact.kind == prefix.KIND:
        num_tokens = len(prefix.keys_values(artifact))
        made = PrefixTrainable(model, num_virtual_tokens=num_tokens, seed=0)
    elif artifact.kind == output_layers.KIND:
        made = OutputLayersTrainable(
            model,
            num_blocks=artifact.spec["num_blocks"],
            train_head=artifact.spec["train_head"],
            scratch=None,
        )
    elif artifact.kind == full.KIND:
        # Its head may be its own where the base's is the embedding.
        merge = Merge(artifact, base_is_tied=bool(model.config.tie_word_embeddings))
        return FullTrainable(model, merge)
    else:
        raise NotMeasurable(
            f"a model of the kind '{artifact.kind}' writes no text: what it would say cannot be compared"
        )
    made.take_over(artifact)
    return made
