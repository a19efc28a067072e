"""Which layers carry what was learnt, and how much of it is needed: the adapter switched off in places, or turned down.

No new weights are made for that: a low-rank part counts as much as its scale says.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .forgetting import Reference
from .likelihood import row_losses
from .tuned import Strength, TokenRow, TunedModel
from .weights import OnProgress

NUM_GROUPS = 6
"""Of layers one after the other."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)

Json = dict[str, Any]


def groups(num_layers: int) -> list[range]:
    """Of about the same size, at most `NUM_GROUPS`."""
    number = min(NUM_GROUPS, num_layers)
    cuts = [round(i * num_layers / number) for i in range(number + 1)]
    return [range(start, end) for start, end in itertools.pairwise(cuts)]


def ablation(model: TunedModel, rows: Sequence[TokenRow], on_progress: OnProgress) -> Json:
    """NLL of the rows with the adapter whole, off, off in each group of layers, on in it alone, and off in each projection."""
    projections = sorted({name.rpartition(".")[2] for name in model.adapted})
    parts = groups(model.model.config.num_hidden_layers)
    variants: list[tuple[Json, Strength]] = [
        ({"what": "whole"}, lambda _, __: 1.0),
        ({"what": "off"}, lambda _, __: 0.0),
    ]
    for part in parts:
        layers = {"layers": [part.start, part.stop - 1]}
        variants.append(({"what": "off in layers", **layers}, _off_in(part)))
        variants.append(({"what": "on in layers", **layers}, _on_in(part)))
    for name in projections:
        variants.append(({"what": "off in projection", "projection": name}, _off_for(name)))
    measured = []
    for what, strength in variants:
        with model.at(strength):
            measured.append({**what, **_losses(model, rows)})
        on_progress(len(measured) / len(variants))
    return {"rows": [row.name for row in rows], "variants": measured}


def dial(
    model: TunedModel,
    rows: Sequence[TokenRow],
    reference: Reference | None,
    strengths: Sequence[float],
    on_progress: OnProgress,
) -> Json:
    """NLL of the rows and KL(base‖tuned) at each strength."""
    measured = []
    for value in strengths:
        with model.at(lambda _, __, value=value: value):  # type: ignore[misc]
            found: Json = {"strength": value, **_losses(model, rows)}
            if reference is not None:
                by_token = reference.divergences()
                number = sum(map(len, by_token))
                found["kl"] = sum(float(each.double().sum()) for each in by_token) / number
                found["kl_by_sample"] = [float(each.mean()) for each in by_token if len(each)]
        measured.append(found)
        on_progress(len(measured) / len(strengths))
    return {"rows": [row.name for row in rows], "strengths": measured}


def _losses(model: TunedModel, rows: Sequence[TokenRow]) -> Json:
    losses = row_losses(model, rows)
    number = sum(weight for _, weight in losses)
    return {
        "nll": sum(loss for loss, _ in losses) / number if number else None,
        "by_row": [[loss, weight] for loss, weight in losses],
    }


def _off_in(part: range) -> Strength:
    return lambda layer, _: 0.0 if layer in part else 1.0


def _on_in(part: range) -> Strength:
    return lambda layer, _: 1.0 if layer in part else 0.0


def _off_for(projection: str) -> Strength:
    return lambda _, name: 0.0 if name == projection else 1.0
