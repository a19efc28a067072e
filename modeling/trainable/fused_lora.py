"""LoRA of several jobs at once: a packed row holds tokens of each, and each job's go through its own matrices.

The product with the base's weight, which is read once, is made for all of them; low-rank products are made segment by
segment. No number of one job is ever added to, or multiplied by, one of another: what is not a number in
one stays there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .lora import LoraLinear
from .places import place_of, put_module


class Segment(NamedTuple):
    """Tokens of a packed row that are one job's."""

    start: int
    end: int
    layers: Mapping[str, LoraLinear]
    """The job's, by the name of the linear layer in whose place each would be."""


class _Part(NamedTuple):
    start: int
    end: int
    scale: float


class FusedLinear(nn.Module):
    """A frozen linear layer, and what some of its rows' jobs add to it."""

    def __init__(self, base: nn.Linear, segments: Sequence[tuple[int, int, LoraLinear]]) -> None:
        super().__init__()
        self.base = base
        self._parts = tuple(_Part(start, end, lora.scale) for start, end, lora in segments)
        # Not registered: they are not this module's to train.
        self._matrices = [m for _, _, lora in segments for m in (lora.lora_A, lora.lora_B)]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)"""
        y: Tensor = _FusedFunction.apply(  # type: ignore[no-untyped-call]
            x, self.base.weight, self.base.bias, self._parts, *self._matrices
        )
        return y


@contextmanager
def fused(model: nn.Module, segments: Sequence[Segment]) -> Iterator[None]:
    """Within, the model, which is its plain self outside, computes a row of these segments, which need not have the same layers."""
    by_name: dict[str, list[tuple[int, int, LoraLinear]]] = {}
    for start, end, layers in segments:
        for name, lora in layers.items():
            by_name.setdefault(name, []).append((start, end, lora))
    places = {name: place_of(model, name) for name in by_name}
    originals: dict[str, Any] = {name: model.get_submodule(name) for name in by_name}
    for name, place in places.items():
        put_module(FusedLinear(originals[name], by_name[name]), place)
    try:
        yield
    finally:
        for name, place in places.items():
            put_module(originals[name], place)


class _FusedFunction(torch.autograd.Function):
    """T rows: x (T, in), weight (out, in), and for each part a (R, in) and b (out, R), each of its own R."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        parts: tuple[_Part, ...],
        *matrices: Tensor,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (T, in)
        # The small products first, for the reason that stands in `lora_products`.
        y = rows.new_zeros(len(rows), len(weight))  # (T, out)
        kept = []
        for (start, end, scale), a, b in zip(parts, matrices[::2], matrices[1::2], strict=True):
            a, b = a.to(x.dtype), b.to(x.dtype)
            narrow = (rows[start:end] @ a.t()).mul_(scale)  # (t, R)
            torch.mm(narrow, b.t(), out=y[start:end])
            kept += [a, b, narrow]
        y.addmm_(rows, weight.t())
        if bias is not None:
            y += bias
        ctx.save_for_backward(rows, weight, *kept)
        ctx.parts, ctx.parameter_dtype = parts, matrices[0].dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, *kept = ctx.saved_tensors
        shape = grads[0].shape
        grad_y = grads[0].reshape(-1, shape[-1])  # (T, out)
        needs_x = ctx.needs_input_grad[0]
        grad_x = torch.zeros_like(rows) if needs_x else None  # (T, in)
        of_matrices: list[Tensor] = []
        for (start, end, scale), a, b, narrow in zip(
            ctx.parts, kept[::3], kept[1::3], kept[2::3], strict=True
        ):
            of_y = grad_y[start:end]
            grad_narrow = (of_y @ b).mul_(scale)  # (t, R)
            if grad_x is not None:
                torch.mm(grad_narrow, a, out=grad_x[start:end])
            grad_a = grad_narrow.t() @ rows[start:end]  # (R, in)
            grad_b = of_y.t() @ narrow  # (out, R)
            of_matrices += [grad_a.to(ctx.parameter_dtype), grad_b.to(ctx.parameter_dtype)]
        if grad_x is not None:
            grad_x = grad_x.addmm_(grad_y, weight).view(*shape[:-1], -1)
        return grad_x, None, None, None, *of_matrices
