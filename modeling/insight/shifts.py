"""What a tuned model does differently with given rows: in its layers, and in how likely it finds each token.

Dimensions: T tokens, D model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .likelihood import token_logprobs
from .tuned import TokenRow, TunedModel

Json = dict[str, Any]


def tokens(model: TunedModel, rows: Sequence[TokenRow]) -> Json:
    """log p of each token that counts, by base and tuned model: what the latter has gained is the difference."""
    tuned = token_logprobs(model, rows)
    with model.as_base():
        base = token_logprobs(model, rows)
    return {
        "rows": [
            {
                "name": row.name,
                "places": row.scored,
                "ids": [row.ids[place] for place in row.scored],
                "base": [round(value, 5) for value in ours.tolist()],
                "tuned": [round(value, 5) for value in theirs.tolist()],
            }
            for row, ours, theirs in zip(rows, base, tuned, strict=True)
        ]
    }


@torch.no_grad()
def layers(model: TunedModel, rows: Sequence[TokenRow]) -> Json:
    """‖ΔWx‖ / ‖Wx‖ of each adapted layer, the median over the tokens; and how far hidden states of each row's last
    prompt token have moved behind each layer. Raises NotMeasurable for what has no low-rank parts."""
    adapted = model.adapted
    ratios: dict[str, list[Tensor]] = {name: [] for name in adapted}
    with _watched(adapted, ratios):
        for row in rows:
            model.states([row.ids])
    places = [_last_of_prompt(row) for row in rows]
    tuned = [_behind_layers(model, row, place) for row, place in zip(rows, places, strict=True)]
    with model.as_base():
        base = [_behind_layers(model, row, place) for row, place in zip(rows, places, strict=True)]
    moved = torch.stack(
        [(a - b).norm(dim=-1) / b.norm(dim=-1) for a, b in zip(tuned, base, strict=True)]
    )
    return {
        "num_rows": len(rows),
        "num_tokens": sum(len(row.ids) for row in rows),
        "weights": [
            {
                "name": name,
                "block": int(name.split(".")[2]),
                "projection": name.rpartition(".")[2],
                "median_ratio": float(torch.cat(values).median()),
            }
            for name, values in ratios.items()
        ],
        "behind_layers": moved.median(dim=0).values.tolist(),
    }


def _last_of_prompt(row: TokenRow) -> int:
    """The place from which the first token that counts is predicted."""
    return row.scored[0] - 1 if row.scored else len(row.ids) - 1


@contextmanager
def _watched(adapted: dict[str, Any], ratios: dict[str, list[Tensor]]) -> Iterator[None]:
    """Within, it is noted what each adapted layer adds to each token."""

    def note(name: str) -> Any:
        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            x = args[0].flatten(0, -2)
            narrow = nn.functional.linear(x, module.lora_A.to(x.dtype)) * module.scale
            added = nn.functional.linear(narrow, module.lora_B.to(x.dtype))
            own = module.base(x)
            ratios[name].append((added.norm(dim=-1) / own.norm(dim=-1)).float().cpu())

        return hook

    handles = [module.register_forward_pre_hook(note(name)) for name, module in adapted.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _behind_layers(model: TunedModel, row: TokenRow, place: int) -> Tensor:
    """The hidden states of one token (L, D) behind each layer."""
    found: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        found.append(states[0, place].float().cpu())

    trunk: Any = model.model.base_model
    handles = [layer.register_forward_hook(note) for layer in trunk.layers]
    try:
        model.states([row.ids])
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)
