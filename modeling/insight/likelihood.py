"""How likely tokens are, and how far apart two models are, from hidden states; all the logits are never there at once.

Dimensions: S scored positions, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .tuned import TokenRow, TunedModel

CHUNK_BYTES = 64 << 20
"""Of logits in fp32."""


def log_softmax(hidden: Tensor, head: Tensor, scale: float = 1.0) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities (n, V) fp32 of hidden (S, D), a few positions at a time."""
    chunk = max(1, CHUNK_BYTES // (4 * len(head)))
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        logits = (hidden[part] @ head.T).float()
        yield part, torch.log_softmax(logits * scale if scale != 1 else logits, dim=-1)


@torch.no_grad()
def logprobs(hidden: Tensor, head: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    """(S,) fp32: of each label."""
    found = torch.empty(len(labels), device=hidden.device)
    for part, each in log_softmax(hidden, head, scale):
        found[part] = each.gather(1, labels[part, None])[:, 0]
    return found


@torch.no_grad()
def divergence(
    ours: Tensor, our_head: Tensor, theirs: Tensor, their_head: Tensor, scale: float = 1.0
) -> Tensor:
    """KL(ours‖theirs) (S,) in nats, over the whole vocabulary."""
    found = torch.empty(len(ours), device=ours.device)
    pairs = zip(
        log_softmax(ours, our_head, scale), log_softmax(theirs, their_head, scale), strict=True
    )
    for (part, log_p), (_, log_q) in pairs:
        found[part] = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    # Below zero it is by rounding only.
    return found.clamp_(min=0)


def token_logprobs(model: TunedModel, rows: Sequence[TokenRow]) -> list[Tensor]:
    """Of each row's tokens that count (S,), by the model as it is now."""
    found = []
    for row, states in zip(rows, model.states([row.ids for row in rows]), strict=True):
        scored = row.scored
        places = torch.tensor([place - 1 for place in scored], dtype=torch.long)
        labels = torch.tensor([row.ids[place] for place in scored], dtype=torch.long)
        hidden = states[places.to(states.device)]
        found.append(
            logprobs(hidden, model.head, labels.to(states.device), model.logit_scale).cpu()
        )
    return found


def row_losses(model: TunedModel, rows: Sequence[TokenRow]) -> list[tuple[float, float]]:
    """Of each row Σ weight · -log p, and Σ weight."""
    found = []
    for row, values in zip(rows, token_logprobs(model, rows), strict=True):
        weights = torch.tensor([row.weights[place] for place in row.scored], dtype=torch.float64)
        found.append((float(-(weights * values.double()).sum()), float(weights.sum())))
    return found
