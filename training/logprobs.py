"""Cross-entropy through a frozen output layer, without ever holding all the logits.

Dimensions: S supervised positions, D model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Logits held at a time. Small enough to stay in the cache between the passes over them,
# large enough that reading the head's weight once a chunk costs little.
_CHUNK_BYTES = 64 * 2**20


def linear_cross_entropy(
    hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of predicting `labels` (S,) from `hidden` (S, D) with `head` (V, D).

    Returns two float32 scalars: Σ weight · -log softmax(hidden · headᵀ)[label], and Σ weight of
    the positions where no token is likelier than the label.
    Only `hidden` gets a gradient, and it is ready when the loss is: logits are computed once.
    """
    loss, correct = _LinearCrossEntropy.apply(hidden, head, labels, weights)  # type: ignore[no-untyped-call]
    return loss, correct


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        grad_hidden = torch.empty_like(hidden) if wants_grad else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros_like(loss)
        chunk = max(1, _CHUNK_BYTES // (4 * len(head)))
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            label, weight = labels[part, None], weights[part, None]
            logits = (hidden[part] @ head.T).float()  # (chunk, V)
            # Below, one buffer: logits, then their exponentials, then the gradient.
            highest = logits.amax(dim=-1, keepdim=True)
            label_logit = logits.gather(1, label) - highest
            exps = logits.sub_(highest).exp_()
            total = exps.sum(dim=-1, keepdim=True)
            loss += (weight * (total.log() - label_logit)).sum()
            correct += weight[label_logit == 0].sum()
            if grad_hidden is not None:
                grad = exps.mul_(weight / total)  # weight · softmax
                grad.scatter_add_(1, label, -weight)
                torch.mm(grad.to(head.dtype), head, out=grad_hidden[part])
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden)
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grads[0], None, None, None
