"""What tuning changed on the rows that were not learnt: against the best that could be had without, and part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports.context import ReportContext
from errands.reports.parts import Json
from errands.reports.scoring import figures
from grading import statistics
from grading.statistics import Difference

MAX_LINES = 500
"""Of a list of rows."""


class Changed:
    name: ClassVar[str] = "changed"
    cost: ClassVar[str] = "nothing: it compares the contenders' answers"

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        measured = context.of("contenders")
        rows: list[Json] = measured["answers"]
        names = [c["name"] for c in measured["contenders"] if c["name"] != "tuned"]
        all_found = {name: _difference(rows, name, context.seed) for name in names}
        best = measured["best_alternative"]
        others = [name for name in names if name != best]
        adjusted = statistics.holm([all_found[name].p for name in others])
        found: Json = {
            "against": best,
            "sees": _sees(rows, best, all_found.get(best)),
            "others": [
                {"against": name, **told(all_found[name]), "p_holm": rounded(p)}
                for name, p in zip(others, adjusted, strict=True)
            ],
        }
        if best is None:
            return found
        return found | {
            "difference": told(all_found[best]),
            "parts": _parts(rows, best, context.seed),
            **_corners(rows, best),
        }


def rounded(p: float) -> float:
    """To three digits, however small."""
    return float(f"{p:.3g}")


def told(difference: Difference) -> Json:
    found: Json = {
        **figures(difference.interval),
        "n": difference.n,
        "p": rounded(difference.p),
        "method": difference.method,
    }
    if difference.num_only_first is not None:
        found["gained"], found["lost"] = difference.num_only_first, difference.num_only_second
    return found


def _difference(rows: Sequence[Json], against: str, seed: int) -> Difference:
    return statistics.compare(
        [row["scores"]["tuned"] for row in rows],
        [row["scores"][against] for row in rows],
        [row["cluster"] for row in rows],
        seed=seed,
    )


def _sees(rows: Sequence[Json], against: str | None, difference: Difference | None) -> float:
    """The smallest difference that so many rows show four times in five."""
    num_clusters = len({row["cluster"] for row in rows})
    if difference is None or difference.num_only_first is not None:
        return round(statistics.smallest_difference(num_clusters), 4)
    changes = [row["scores"]["tuned"] - row["scores"][against] for row in rows]
    mean = sum(changes) / len(changes)
    deviation = (sum((change - mean) ** 2 for change in changes) / len(changes)) ** 0.5
    return round(min(1.0, statistics.smallest_mean_difference(num_clusters, deviation)), 4)


def _parts(rows: Sequence[Json], against: str, seed: int) -> list[Json]:
    """Fields, classes or arguments: a family, adjusted as one."""
    names = dict.fromkeys(part for row in rows for part in row["parts"]["tuned"])
    found: list[tuple[str, Difference, float, float]] = []
    for name in names:
        having = [
            r for r in rows if name in r["parts"]["tuned"] and name in r["parts"].get(against, {})
        ]
        if not having:
            continue
        tuned = [row["parts"]["tuned"][name] for row in having]
        other = [row["parts"][against][name] for row in having]
        clusters = [row["cluster"] for row in having]
        difference = statistics.compare(tuned, other, clusters, seed=seed)
        found.append((name, difference, sum(tuned) / len(tuned), sum(other) / len(other)))
    adjusted = statistics.holm([difference.p for _, difference, _, _ in found])
    return [
        {
            "name": name,
            "tuned": round(tuned, 6),
            "other": round(other, 6),
            **told(difference),
            "p_holm": rounded(p),
        }
        for (name, difference, tuned, other), p in zip(found, adjusted, strict=True)
    ]


def _corners(rows: Sequence[Json], against: str) -> Json:
    """Lines of the rows by who did better on them, the largest change first."""

    def change(row: Json) -> float:
        return float(row["scores"]["tuned"] - row["scores"][against])

    ordered = sorted(rows, key=lambda row: (-abs(change(row)), row["line"], row["turn"]))
    better = [row for row in ordered if change(row) > 0]
    worse = [row for row in ordered if change(row) < 0]
    same = [row for row in ordered if change(row) == 0]
    right = [row for row in same if row["scores"]["tuned"] == 1]
    wrong = [row for row in same if row["scores"]["tuned"] != 1]
    corners = {"gained": better, "lost": worse, "both_right": right, "neither": wrong}
    return {
        "counts": {name: len(found) for name, found in corners.items()},
        "rows": {
            name: [[row["line"], row["turn"]] for row in found[:MAX_LINES]]
            for name, found in corners.items()
        },
    }
