"""The products of a training step with the base's weights, and nothing else: what the rest of a step is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.examples import Example
from modeling import attention, base
from modeling.base import Precision
from training import batches
from training.batches import MicroBatch, ScoredRow
from training.messages import TrainConfig


class BareProducts:
    """A product forward and one for the gradient of what a layer reads, of every linear layer and of the head.

    The same numbers of the same shapes and type as in a step, from the base's own weights.
    """

    def __init__(self, base_path: Path, precision: Precision) -> None:
        model = base.load_base(
            base_path,
            precision=precision,
            attn_implementation=attention.NAME,
            device=base.choose_device(),
        )
        self._head: Tensor = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        linear = [m for m in model.base_model.modules() if isinstance(m, nn.Linear)]
        self._weights: list[Tensor] = [module.weight for module in linear]
        first = model.base_model.layers[0].self_attn  # type: ignore[union-attr, index]
        # What the first block reads is frozen.
        self._without_backward = {
            id(each.weight) for each in (first.q_proj, first.k_proj, first.v_proj)
        }

    @torch.no_grad()
    def run(self, step: Sequence[MicroBatch]) -> float:
        """Compute them; gives their floating-point operations."""
        num_operations = 0
        for batch in step:
            for weight in self._weights:
                has_backward = id(weight) not in self._without_backward
                num_operations += _products(weight, len(batch.input_ids), has_backward=has_backward)
            num_operations += _products(self._head, len(batch.labels), has_backward=True)
        if self._head.is_cuda:
            torch.cuda.synchronize()
        return num_operations


def _products(weight: Tensor, num_rows: int, *, has_backward: bool) -> int:
    num_out, num_in = weight.shape
    # Zeros and ones take as long as any other numbers.
    made = weight.new_ones(num_rows, num_in) @ weight.t()
    if has_backward:
        torch.mm(made, weight)
    return 2 * num_rows * num_in * num_out * (1 + has_backward)


def micro_batches(step: int, examples: Sequence[Example], config: TrainConfig) -> list[MicroBatch]:
    """What a job computes in a step."""
    indices = batches.examples_of_step(step, len(examples), config.batch_size, config.seed)
    rows = [[ScoredRow.of(examples[index])] for index in indices]
    return batches.micro_batches(rows, config.micro_batch_tokens)
