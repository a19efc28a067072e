"""How much of the adapter is needed: the gain and the distance from the base at each strength, and which one to ask for.

The strength is chosen on one half of the rows and told of on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports import insight
from errands.reports.cases import Case
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Json
from errands.reports.scoring import figures
from grading import statistics
from storage.models import strengths
from storage.models.artifacts import DIALLED_KINDS

SHARE = 0.15
KEEPS = 0.95
"""Of the gain: so much a smaller strength has to keep to be worth asking for."""
SAVES = 0.8
"""Of the divergence at full strength: it has to be below."""
MIN_DEV = 8
NUM_ROWS = {"auto": 24, "full": 96}
MAX_TOKENS = {"auto": 3072, "full": 16384}
NUM_SAMPLES = {"auto": 8, "full": 32}
STRENGTHS = {"auto": [0.0, 0.25, 0.5, 0.75, 1.0, 1.25], "full": [i / 8 for i in range(13)]}


class Dial:
    name: ClassVar[str] = "dial"
    cost: ClassVar[str] = (
        "3,072 tokens of rows and 8 of the base's samples, read at six strengths (`full`: 16,384, 32 and thirteen)"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        if context.artifact.kind not in DIALLED_KINDS:
            raise SectionSkipped("only a LoRA model can be turned down")
        dev, reported = _halves(context)
        rows = insight.write_rows(context.folder / "dial.jsonl", [*dev, *reported])
        asked = {
            "part": "dial",
            "rows": str(rows),
            "max_tokens": MAX_TOKENS[context.depth],
            "strengths": STRENGTHS[context.depth],
            "num_samples": NUM_SAMPLES[context.depth],
        }
        found = insight.measure(context, self.name, [asked], limit_s=context.room_s(SHARE))["dial"]
        if "skipped" in found:
            raise SectionSkipped(found["skipped"])
        keys = {case.key for case in dev}
        places = {
            "dev": [i for i, name in enumerate(found["rows"]) if name in keys],
            "reported": [i for i, name in enumerate(found["rows"]) if name not in keys],
        }
        curve = [_point(each, places, context.seed) for each in found["strengths"]]
        return {
            "measure": "NLL a token of the wanted answers, and KL(base || tuned) on the base's own samples",
            "chosen_on": {
                "rows": len(places["dev"]),
                "are": "rows that were not learnt" if context.data.holdout else "training rows",
            },
            "reported_rows": len(places["reported"]),
            "strengths": curve,
            "recommended": _recommended(curve, context.tuned),
        }


def _halves(context: ReportContext) -> tuple[list[Case], list[Case]]:
    """Rows to choose by, and rows to tell of."""
    data, number = context.data, NUM_ROWS[context.depth]
    ordered = sorted(data.holdout or data.training, key=lambda case: case.rank)[:number]
    if len(ordered) < MIN_DEV:
        raise SectionSkipped(
            f"there are {len(ordered)} rows, and {MIN_DEV} are needed to choose by"
        )
    # By turns, so that what does not fit any more is missing in both.
    return ordered[::2], ordered[1::2]


def _point(found: Json, places: Mapping[str, Sequence[int]], seed: int) -> Json:
    told: Json = {"strength": found["strength"]}
    for name, of_half in places.items():
        pairs = [found["by_row"][place] for place in of_half]
        if pairs:
            told[name] = sum(loss for loss, _ in pairs) / sum(weight for _, weight in pairs)
    if "kl" in found:
        values = found["kl_by_sample"]
        interval = statistics.bootstrap(values, [str(i) for i in range(len(values))], seed=seed)
        told["kl"] = found["kl"]
        told["kl_interval"] = {**figures(interval), "n": len(values), "method": "bootstrap"}
    return told


def _recommended(curve: Sequence[Json], model: str) -> Json | None:
    """The smallest strength that keeps nearly all of the gain at less of the distance; None: the whole is as good."""
    by = {each["strength"]: each for each in curve}
    if not {0.0, 1.0} <= by.keys() or "dev" not in by[1.0]:
        return None
    gain = by[0.0]["dev"] - by[1.0]["dev"]
    whole = by[1.0].get("kl")
    if gain <= 0 or not whole:
        return None
    for value in sorted(by):
        each = by[value]
        kept = (by[0.0]["dev"] - each["dev"]) / gain
        if 0 < value < 1 and kept >= KEEPS and each["kl"] <= SAVES * whole:
            name = strengths.name_at(model, value)
            told = each
            if "reported" in each and (of := by[0.0]["reported"] - by[1.0]["reported"]) > 0:
                kept = (by[0.0]["reported"] - told["reported"]) / of
            share = each["kl"] / whole
            return {
                "strength": value,
                "model": name,
                "gain_kept": kept,
                "kl_share": share,
                "sentence": f"`{name}` keeps {100 * kept:.0f} % of the gain at {100 * share:.0f} % of the distance from the base.",
            }
    return None
