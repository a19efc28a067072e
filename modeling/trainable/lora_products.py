"""What linear layers with low-rank parts make of one input: y = x W^T + bias + scale * (x A^T) B^T, of each.

Layers that read the same x, such as those of queries, keys and values, are computed together: x meets all their A in one
product, forward and backward, and its gradient is summed where it arises. W is frozen and gets none. A and B are fp32
parameters, and the products with them run in the precision of the activations. Forward keeps x once and the narrow
x A^T; backward needs nothing else.

The small product comes first and the base's is added to it, within one multiplication that sums in fp32 and rounds
its result once. The other way round, a base's output that is rounded to bf16 already swallows what is added to it if that is
less than half the distance to the next number: of a low-rank part of a thousandth of the output 40 % are lost,
of a ten-thousandth 93 %, and the same ones each time.

Dimensions: T tokens, R rank of a layer, S the sum of the layers' ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class AdaptedWeight(NamedTuple):
    """A frozen weight with its low-rank part."""

    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)
    a: Tensor  # (R, in)
    b: Tensor  # (out, R)
    scale: float


def products(x: Tensor, layers: Sequence[AdaptedWeight]) -> tuple[Tensor, ...]:
    """x (..., in) -> (..., out) of each layer."""
    scales = tuple(layer.scale for layer in layers)
    tensors = [each for layer in layers for each in layer[:4]]
    made: tuple[Tensor, ...] = _Products.apply(x, scales, *tensors)  # type: ignore[no-untyped-call]
    return made


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scales: tuple[float, ...], *tensors: Any
    ) -> tuple[Tensor, ...]:
        weights, biases, as_, bs = tensors[::4], tensors[1::4], tensors[2::4], tensors[3::4]
        rows = x.reshape(-1, x.shape[-1])  # (T, in)
        ranks = [len(each) for each in as_]
        a = _joined(as_, dim=0).to(x.dtype)  # (S, in)
        # The scale goes onto the narrow product, where it costs next to nothing.
        narrow = _scaled(rows @ a.t(), ranks, scales)  # (T, S)
        made: list[Tensor] = []
        rounded_bs = [b.to(x.dtype) for b in bs]
        for weight, bias, b, part in zip(
            weights, biases, rounded_bs, torch.split(narrow, ranks, dim=1), strict=True
        ):
            y = (part @ b.t()).addmm_(rows, weight.t())
            if bias is not None:
                y += bias
            made.append(y.view(*x.shape[:-1], -1))
        ctx.save_for_backward(rows, a, narrow, *weights, *rounded_bs)
        ctx.scales, ctx.ranks, ctx.parameter_dtype = scales, ranks, as_[0].dtype
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        rows, a, narrow, *saved = ctx.saved_tensors
        weights, bs = saved[: len(grads)], saved[len(grads) :]
        grad_ys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]  # (T, out)
        narrow_grads = [g @ b for g, b in zip(grad_ys, bs, strict=True)]
        grad_narrow = _scaled(_joined(narrow_grads, dim=1), ctx.ranks, ctx.scales)  # (T, S)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_narrow @ a  # (T, in)
            for grad_y, weight in zip(grad_ys, weights, strict=True):
                grad_x.addmm_(grad_y, weight)
            grad_x = grad_x.view(*grads[0].shape[:-1], -1)
        of_parameters: list[Tensor | None] = []
        grad_a = (grad_narrow.t() @ rows).to(ctx.parameter_dtype)  # (S, in)
        for grad_y, part, part_a in zip(
            grad_ys,
            torch.split(narrow, ctx.ranks, dim=1),
            torch.split(grad_a, ctx.ranks),
            strict=True,
        ):
            grad_b = (grad_y.t() @ part).to(ctx.parameter_dtype)  # (out, R)
            of_parameters += [None, None, part_a, grad_b]
        return grad_x, None, *of_parameters


def _joined(parts: Sequence[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def _scaled(narrow: Tensor, ranks: Sequence[int], scales: Sequence[float]) -> Tensor:
    """narrow (T, S), in place."""
    if len(set(scales)) == 1:
        return narrow.mul_(scales[0])
    for part, scale in zip(torch.split(narrow, list(ranks), dim=1), scales, strict=True):
        part.mul_(scale)
    return narrow
