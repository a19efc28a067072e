"""Output layers: the last blocks and the norm behind them train, and the head if that is asked for.

What lies below is frozen and so makes the same of a sequence in every epoch: it is computed once and kept. Each
sequence by itself, for in a batch the last bits of a number depend on what is computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling import attention
from modeling.artifacts import output_layers as files
from modeling.artifacts.artifact import Artifact
from modeling.artifacts.merge import Merge
from modeling.layout import Layout

from .copies import Copies
from .features import FeatureCache
from .trainable import PackedRow, hidden_states


class OutputLayersTrainable(Copies):
    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_blocks: int,
        train_head: bool,
        scratch: Path | None,
        merge: Merge | None = None,
    ) -> None:
        """A head that is the embedding gets weights of its own. They begin as the base's, or as what `merge` makes of
        those. `scratch` is a folder for what is kept; None keeps
        nothing. Raises ValueError for a base that computes in another way than block after block."""
        self._model = model
        self._trunk: Any = model.base_model
        self._num_blocks, self._train_head = num_blocks, train_head
        self._num_frozen = model.config.num_hidden_layers - num_blocks
        self._check_course()
        shapes = files.trained_shapes(model.config, num_blocks=num_blocks, train_head=train_head)
        super().__init__(model, list(shapes), merge)
        self._cache = FeatureCache(scratch) if scratch else None

    def hidden_states(self, row: PackedRow) -> Tensor:
        features = self._features(row)
        with attention.segments(row.layout):
            return self._through(self._trunk.layers[self._num_frozen :], features, row.position_ids)

    def detach(self) -> None:
        super().detach()
        if self._cache is not None:
            self._cache.close()

    def artifact(self, base_model: str) -> Artifact:
        return files.artifact(
            self.parameters,
            num_blocks=self._num_blocks,
            train_head=self._train_head,
            base_model=base_model,
        )

    def _features(self, row: PackedRow) -> Tensor:
        """(T, D): of what several sequences share, what the first of them has."""
        parts: dict[int, Tensor] = {}
        layout = row.layout
        pieces = torch.split(row.input_ids, layout.lengths)
        for path in layout.paths:
            of_path = self._features_of(torch.cat([pieces[each] for each in path]))
            own = torch.split(of_path, [layout.lengths[each] for each in path])
            parts = dict(zip(path, own, strict=True)) | parts
        return torch.cat([parts[each] for each in range(len(parts))])

    @torch.no_grad()
    def _features_of(self, input_ids: Tensor) -> Tensor:
        """Of a sequence (T,) alone: (T, D)."""
        weight = self._trunk.embed_tokens.weight
        if self._cache is not None and (kept := self._cache.get(input_ids, weight)) is not None:
            return kept
        length = len(input_ids)
        position_ids = torch.arange(length, device=input_ids.device)
        with attention.segments(Layout.of_lengths([length])):
            # Not through the module: noise on embeddings is for what is computed anew each time.
            embedded = F.embedding(input_ids, weight)
            features = _run(
                self._trunk, self._trunk.layers[: self._num_frozen], embedded, position_ids
            )
        if self._cache is not None:
            self._cache.put(input_ids, features)
        return features

    def _through(self, blocks: Sequence[nn.Module], states: Tensor, position_ids: Tensor) -> Tensor:
        normed: Tensor = self._trunk.norm(_run(self._trunk, blocks, states, position_ids))
        return normed

    @torch.no_grad()
    def _check_course(self) -> None:
        """That the parts, one after the other, are the whole."""
        device = self._trunk.embed_tokens.weight.device
        ids = torch.arange(8, device=device)
        row = PackedRow(ids, ids, Layout.of_lengths([8]))
        with attention.segments(row.layout):
            parts = self._through(self._trunk.layers, self._trunk.embed_tokens(ids), ids)
        if not torch.equal(parts, hidden_states(self._model, row)):
            raise ValueError("this base is more than its blocks one after the other")


def _run(trunk: Any, blocks: Sequence[nn.Module], states: Tensor, position_ids: Tensor) -> Tensor:
    """(T, D) through the blocks, as transformers' decoders do it."""
    states = states[None]  # (1, T, D)
    positions = trunk.rotary_emb(states, position_ids=position_ids[None])
    for block in blocks:
        states = block(
            states,
            attention_mask=None,
            position_ids=position_ids[None],
            position_embeddings=positions,
            use_cache=False,
        )
    return states[0]
