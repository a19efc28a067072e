"""RMSNorm with its own backward: y = w · x / sqrt(mean(x²) + eps), in fp32 whatever x is.

Dimensions: N vectors of width D.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, rounds_late: bool = False) -> Tensor:
    """x (..., D), weight (D,) -> (..., D). The normed x is rounded to its dtype before the weight, or only behind it."""
    y: Tensor = _RmsNorm.apply(x, weight, eps, rounds_late)  # type: ignore[no-untyped-call]
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, rounds_late: bool) -> Tensor:
        precise = torch.promote_types(x.dtype, torch.float32)
        x_precise = x.to(precise)
        # Divisor by vector: (..., 1).
        rstd = x_precise.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = x_precise * rstd
        y = (normed.mul_(weight)).to(x.dtype) if rounds_late else normed.to(x.dtype).mul_(weight)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, rstd = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        x_precise = x.to(rstd.dtype)
        grad_x = grad_weight = None
        if needs_weight:
            by_vector = (x_precise * rstd).mul_(grad)
            grad_weight = by_vector.flatten(0, -2).sum(0).to(weight.dtype)
        if needs_x:
            # Of the normed x; then without what changes the length alone.
            inner = grad.to(rstd.dtype) * weight.to(rstd.dtype)
            along = (inner * x_precise).sum(-1, keepdim=True).mul_(rstd.pow(3)).div_(x.shape[-1])
            grad_x = inner.mul_(rstd).addcmul_(x_precise, along, value=-1).to(x.dtype)
        return grad_x, grad_weight, None, None
