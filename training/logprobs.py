"""How likely each label is, without ever holding all the logits.

Dimensions: S scored positions, D model, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# Logits held at a time. Small enough to stay in the cache between the passes over them,
# large enough that reading the head's weight once a chunk costs little.
_CHUNK_BYTES = 64 * 2**20


class Scores(NamedTuple):
    """What a model makes of the labels."""

    logprobs: Tensor  # (S,) float32
    is_top: Tensor  # (S,) bool: no token is likelier than the label


def score(
    hidden: Tensor, head: Tensor, labels: Tensor, trained_head: Tensor | None = None
) -> Scores:
    """log softmax(hidden · headᵀ)[label] of `hidden` (S, D), `head` (V, D) and `labels` (S,).

    The gradient of `hidden` is prepared at once, when the logits are there: how a label's probability changes
    with its hidden state does not depend on the loss. So whatever a loss makes of the log-probabilities in plain
    torch costs this one pass.

    `head` gets none, but `trained_head`, where it is given: the fp32 parameter (V, D) that `head` is or is
    rounded from. That takes the logits a second time, for what each counts is known in backward only.
    """
    return Scores(*_Score.apply(hidden, head.detach(), labels, trained_head))  # type: ignore[no-untyped-call]


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, trained_head: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Row t is the gradient of logprobs[t] to hidden[t]: (onehot - softmax) · head.
        unit_grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        is_top = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        chunk = max(1, _CHUNK_BYTES // (4 * len(head)))
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            label = labels[part, None]
            logits = (hidden[part] @ head.T).float()  # (chunk, V)
            # Below, one buffer: logits, then their exponentials, then the gradient.
            highest = logits.amax(dim=-1, keepdim=True)
            label_logit = logits.gather(1, label) - highest
            exps = logits.sub_(highest).exp_()
            total = exps.sum(dim=-1, keepdim=True)
            logprobs[part] = (label_logit - total.log())[:, 0]
            is_top[part] = label_logit[:, 0] == 0
            if unit_grad is not None:
                grad = exps.mul_(-1 / total)  # -softmax
                grad.scatter_add_(1, label, torch.ones_like(label_logit))
                torch.mm(grad.to(head.dtype), head, out=unit_grad[part])
        of_head = (hidden, head, labels) if trained_head is not None else (None, None, None)
        ctx.save_for_backward(unit_grad, *of_head)
        ctx.mark_non_differentiable(is_top)
        return logprobs, is_top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        unit_grad, hidden, head, labels = ctx.saved_tensors
        grad_hidden = grad_head = None
        if unit_grad is not None:
            grad_hidden = (unit_grad * grads[0][:, None]).to(unit_grad.dtype)
        if ctx.needs_input_grad[3]:
            grad_head = _grad_of_head(hidden, head, labels, grads[0])
        return grad_hidden, None, None, grad_head


def _grad_of_head(hidden: Tensor, head: Tensor, labels: Tensor, grad: Tensor) -> Tensor:
    """Σ grad[t] · (onehot - softmax)ᵀ · hidden[t], summed in fp32 (V, D)."""
    total = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
    chunk = max(1, _CHUNK_BYTES // (4 * len(head)))
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        logits = (hidden[part] @ head.T).float()  # (chunk, V)
        of_logits = torch.softmax(logits, dim=-1).mul_(-grad[part, None])
        of_logits.scatter_add_(1, labels[part, None], grad[part, None])
        total += of_logits.to(head.dtype).T @ hidden[part]
    return total
