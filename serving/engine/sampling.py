"""Logits to tokens: penalties, bias, grammars, temperature, top_p, seeds and log-probabilities, a whole batch at once."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .constraints import blocked

# Below this the softmax would overflow, and the result is the arg max anyway.
GREEDY_BELOW = 1e-5
# A nucleus is nearly always smaller than this; sorting the whole vocabulary costs ten times as much.
NUCLEUS_TOKENS = 256
# One bit less than fp32's mantissa, so that `draw * total` stays below `total` however it is rounded.
DRAW_BITS = 23


@dataclass(frozen=True)
class SamplingParams:
    """OpenAI's sampling parameters. Temperature 0 takes the most probable token."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    choice: int = 0
    """Which of `n` choices this is; each draws numbers of its own from the one seed."""
    num_logprobs: int | None = None
    """None: no log-probabilities; k: those of the chosen token and of the k most probable ones."""

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of the model's own probabilities, before temperature, penalties, bias and grammars."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logprob), most probable first."""


@dataclass(frozen=True)
class Draw:
    """What one row of logits is to be sampled with."""

    params: SamplingParams
    position: int
    """Of the new token among the generated ones: with the seed it decides the random number."""
    counts: Mapping[int, int]
    """How often each token has been generated so far."""
    mask: Tensor | None = None
    """Of a grammar: a bit for each token, packed."""


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[tuple[int, TokenLogprob | None]]:
    """One token, and its log-probability where asked for, for each row of `logits` (N, V).

    A row's result depends on that row alone, not on the others in the batch.
    """
    logits = logits.float()
    adjusted = _adjust(logits, draws)
    token_ids = adjusted.argmax(-1)  # (N,)
    random_rows = [i for i, draw in enumerate(draws) if not draw.params.is_greedy]
    if random_rows:
        chosen = [draws[i] for i in random_rows]
        token_ids[random_rows] = _sample_random(adjusted[random_rows], chosen)
    tokens: list[int] = token_ids.tolist()
    entries: list[TokenLogprob | None] = [None] * len(draws)
    rows = [i for i, draw in enumerate(draws) if draw.params.num_logprobs is not None]
    if rows:
        num_top = [draws[i].params.num_logprobs or 0 for i in rows]
        found = token_logprobs(logits[rows], [tokens[i] for i in rows], num_top)
        for row, entry in zip(rows, found, strict=True):
            entries[row] = entry
    return list(zip(tokens, entries, strict=True))


def token_logprobs(
    logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprob]:
    """Log-probabilities of `token_ids` and of the most probable tokens under `logits` (N, V)."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0]
    # Both figures come from one tensor, so a caller may compare them for equality.
    top_values, top_ids = logprobs.topk(min(max(num_top), logprobs.shape[-1]), dim=-1)
    rows = zip(token_ids, chosen.tolist(), top_ids.tolist(), top_values.tolist(), strict=True)
    return [
        TokenLogprob(token_id, value, tuple(zip(ids[:k], values[:k], strict=True)))
        for (token_id, value, ids, values), k in zip(rows, num_top, strict=True)
    ]


def _adjust(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits with bias added, penalties subtracted and masks put on; the argument itself stays as it is."""
    rows: list[int] = []
    ids: list[int] = []
    added: list[float] = []
    for row, draw in enumerate(draws):
        changes = dict(draw.params.logit_bias)
        if draw.params.presence_penalty or draw.params.frequency_penalty:
            for token_id, count in draw.counts.items():
                penalty = draw.params.presence_penalty + draw.params.frequency_penalty * count
                changes[token_id] = changes.get(token_id, 0.0) - penalty
        rows += [row] * len(changes)
        ids += changes.keys()
        added += changes.values()
    adjusted = logits
    if rows:
        places = tuple(torch.tensor(indices, device=logits.device) for indices in (rows, ids))
        values = torch.tensor(added, dtype=logits.dtype, device=logits.device)
        adjusted = logits.index_put(places, values, accumulate=True)
    return _masked(adjusted, draws)


def _masked(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits of minus infinity for what a grammar does not allow; the argument itself stays as it is."""
    masks = {row: draw.mask for row, draw in enumerate(draws) if draw.mask is not None}
    if not masks:
        return logits
    added = blocked(masks.values(), logits.shape[-1], logits.device)
    if len(masks) == len(draws):
        return logits + added
    masked = logits.clone()
    masked[list(masks)] += added
    return masked


def _sample_random(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Token ids (N,) by inverting each row's cumulative distribution at the row's random number."""
    temperatures = logits.new_tensor([draw.params.temperature for draw in draws])
    # Below their largest first: divided by a small temperature, large logits would not be finite.
    logits = logits - logits.amax(-1, keepdim=True)
    probs = (logits / temperatures[:, None]).softmax(-1)  # (N, V)
    top_p = [draw.params.top_p for draw in draws]
    nucleus_rows = [i for i, p in enumerate(top_p) if p < 1.0]
    if nucleus_rows:
        limits = logits.new_tensor([top_p[i] for i in nucleus_rows])
        probs[nucleus_rows] = _nucleus(probs[nucleus_rows], limits)
    cumulative = probs.cumsum(-1)
    numbers = [random_number(d.params.seed, d.params.choice, d.position) for d in draws]
    targets = logits.new_tensor(numbers)[:, None] * cumulative[:, -1:]
    # right=True finds the first sum *above* the target: a token of probability 0 is never drawn.
    found = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)


def are_finite(logits: Tensor) -> list[bool]:
    """For each row of `logits` (N, V): whether all of it are numbers that can be sampled from."""
    finite: list[bool] = logits.sum(-1, dtype=torch.float32).isfinite().tolist()
    return finite


def _nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """`probs` (N, V) with zeros outside the smallest set of most probable tokens that holds `top_p`.

    Tokens as probable as the last of the set stay too, so the order of ties decides nothing.
    """
    sorted_probs = probs.topk(min(NUCLEUS_TOKENS, probs.shape[-1]), dim=-1).values
    if bool((sorted_probs.sum(-1) < top_p).any()):
        sorted_probs = probs.sort(dim=-1, descending=True).values
    mass_before = sorted_probs.cumsum(-1) - sorted_probs
    num_kept = (mass_before < top_p[:, None]).sum(-1, keepdim=True).clamp(min=1)
    threshold = sorted_probs.gather(-1, num_kept - 1)
    return probs.masked_fill(probs < threshold, 0.0)


def random_number(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1), a function of its arguments alone: no generator carries state."""
    packed = struct.pack("<qqq", seed, choice, position)
    digest = hashlib.blake2b(packed, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> (64 - DRAW_BITS)) / (1 << DRAW_BITS)
