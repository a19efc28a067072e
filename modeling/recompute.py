"""Gradient checkpointing: a block keeps nothing but what it reads, and backward computes it again.

The same products of the same numbers, so the gradients are the same to the last bit. And how many bytes a forward pass
keeps for backward, to tell whether that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from . import attention


@contextmanager
def recomputed(model: PreTrainedModel) -> Iterator[None]:
    """Forward passes within keep little; their backward may run elsewhere.

    What is random in a block must be the same when it is computed again, then.
    """
    blocks = _blocks(model)
    for block in blocks:
        block.forward = partial(_recomputed, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            # The class's own shows again.
            del block.forward


def _recomputed(forward: Callable[..., Any], states: Tensor, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(states, **options)
    where = attention.held()
    return checkpoint(
        partial(forward, **options),
        states,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), where),
    )


class Kept(NamedTuple):
    """Bytes that a forward pass keeps for backward, parameters not counted."""

    in_blocks: int
    elsewhere: int


def measure(model: PreTrainedModel, forward: Callable[[], object]) -> Kept:
    """What `forward`, which computes with the model, keeps."""
    depth = 0
    counted = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = [0, 0]

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            kept[depth > 0] += storage.nbytes()
        # Kept alive, so no other one gets its place.
        return tensor

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = [
        hook
        for block in _blocks(model)
        for hook in (
            block.register_forward_pre_hook(enter),
            block.register_forward_hook(leave, always_call=True),
        )
    ]
    try:
        with torch.enable_grad(), saved_tensors_hooks(count, lambda tensor: tensor):
            result = forward()
        del result
    finally:
        for hook in hooks:
            hook.remove()
    return Kept(in_blocks=kept[1], elsewhere=kept[0])


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    trunk: Any = model.base_model
    return list(trunk.layers)
