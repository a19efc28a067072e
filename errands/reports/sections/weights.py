"""Where in the network the change is, in how many directions it lies, and when it was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from errands.reports import insight
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Json

SHARE = 0.1
DIGITS = 6
MAX_VALUES = 32
"""Singular values of a weight that are shown."""


class Weights:
    name: ClassVar[str] = "weights"
    cost: ClassVar[str] = (
        "matrix decompositions of the adapter; those of the base, of four layers, once a base (`full`: of eight)"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        num_blocks = 8 if context.depth == "full" else 4
        parts: list[Json] = [
            {"part": "weights"},
            {"part": "subspaces"},
            {"part": "intruders", "num_blocks": num_blocks},
        ]
        found = insight.measure(
            context, self.name, parts, limit_s=context.room_s(SHARE), with_checkpoints=True
        )
        changed, others = found["weights"], found["intruders"]
        if "skipped" in changed:
            raise SectionSkipped(changed["skipped"])
        told: Json = {
            "summary": _summary(changed["weights"], others),
            "weights": [_shown(each) for each in changed["weights"]],
            "intruders": others,
            "subspaces": found["subspaces"],
            "seed": changed["seed"],
            "notes": [
                "Beside each measure stands what chance gives: the same numbers in other places, or the same values in other "
                "directions.",
                "Sizes depend on the rank and on the base; the pattern over layers is this base's alone.",
            ],
        }
        rounded: Json = _rounded(told)
        return rounded


def _summary(weights: Sequence[Json], others: Json) -> Json:
    by_projection: defaultdict[str, list[float]] = defaultdict(list)
    for each in weights:
        if each["relative_norm"] is not None and each["block"] is not None:
            by_projection[each["projection"]].append(each["relative_norm"])
    largest = sorted(weights, key=lambda each: -(each["relative_norm"] or 0))[:5]
    ranked = [each for each in weights if each.get("effective_rank")]
    found: Json = {
        "largest": [{"name": e["name"], "relative_norm": e["relative_norm"]} for e in largest],
        "by_projection": {name: fmean(values) for name, values in sorted(by_projection.items())},
    }
    if ranked:
        found |= {
            "rank": max(each["rank"] for each in ranked),
            "effective_rank": fmean(each["effective_rank"] for each in ranked),
            "stable_rank": fmean(each["stable_rank"] for each in ranked),
        }
        found["sentence"] = (
            f"A rank of {found['rank']} was paid for, and {found['effective_rank']:.1f} are used on average."
        )
    if "weights" in others:
        looked = [each for each in others["weights"] if not each["is_screened"]]
        found["intruders"] = {
            "count": sum(each["count"] for each in looked),
            "by_chance": sum(each["null"]["count"] for each in looked),
            "weights_in_full": len(looked),
            "weights_screened": len(others["weights"]) - len(looked),
        }
    return found


def _shown(weight: Json) -> Json:
    if "values" in weight:
        return weight | {"values": weight["values"][:MAX_VALUES]}
    return weight


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value
