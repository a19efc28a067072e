"""Rotary position embedding: each pair (x[i], x[i + D/2]) of a head is turned by an angle that grows with the position.

Backward turns it back, so nothing of x is kept. Dimensions: T tokens, H heads, D per head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (1, T, H, D), cos and sin (1, T, D) of halves that are alike -> (1, T, H, D)."""
    turned: Tensor = _Rotation.apply(x, cos.unsqueeze(2), sin.unsqueeze(2))  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, sin, -1), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = (x * cos).to(x.dtype)
    turned[..., :half].addcmul_(second, sin[..., :half].to(x.dtype), value=-direction)
    turned[..., half:].addcmul_(first, sin[..., half:].to(x.dtype), value=direction)
    return turned
