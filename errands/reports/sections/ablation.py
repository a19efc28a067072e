"""Which layers carry what was learnt: the adapter switched off, or left on alone, in each sixth of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports import insight
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Json
from errands.reports.scoring import figures
from grading import statistics
from storage.models.artifacts import DIALLED_KINDS

SHARE = 0.1
NUM_ROWS = {"auto": 12, "full": 32}
MAX_TOKENS = {"auto": 2048, "full": 8192}


class Ablation:
    name: ClassVar[str] = "ablation"
    cost: ClassVar[str] = (
        "2,048 tokens of rows, read by the model some 21 times with its adapter off in places (`full`: 8,192)"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        if context.artifact.kind not in DIALLED_KINDS:
            raise SectionSkipped("only a LoRA model can be switched off in places")
        data = context.data
        cases = sorted(data.holdout or data.training, key=lambda case: case.rank)
        if not cases:
            raise SectionSkipped("there are no rows to hear it by")
        rows = insight.write_rows(
            context.folder / "ablation.jsonl", cases[: NUM_ROWS[context.depth]]
        )
        asked = {"part": "ablation", "rows": str(rows), "max_tokens": MAX_TOKENS[context.depth]}
        found = insight.measure(context, self.name, [asked], limit_s=context.room_s(SHARE))[
            "ablation"
        ]
        if "skipped" in found:
            raise SectionSkipped(found["skipped"])
        whole, off, *places = found["variants"]
        told = [_told(each, whole, context.seed) for each in places]
        gain = off["nll"] - whole["nll"]
        return {
            "rows": len(found["rows"]),
            "on": "rows that were not learnt" if data.holdout else "training rows",
            "measure": "NLL a token of the wanted answers",
            "whole": whole["nll"],
            "off": off["nll"],
            "places": told,
            "carried_by": _carried_by(told, gain),
            "notes": ["What parts do adds up to the whole neither here nor elsewhere."],
        }


def _told(variant: Json, whole: Json, seed: int) -> Json:
    """How much harder the rows are than with the whole adapter."""
    rises = [
        (loss - other) / weight
        for (loss, weight), (other, _) in zip(variant["by_row"], whole["by_row"], strict=True)
    ]
    interval = statistics.bootstrap(rises, [str(i) for i in range(len(rises))], seed=seed)
    about = {name: value for name, value in variant.items() if name != "by_row"}
    return {**about, "rise": {**figures(interval), "n": len(rises), "method": "bootstrap"}}


def _carried_by(told: Sequence[Json], gain: float) -> Json | None:
    """The layers without which most of the gain is lost."""
    off = [each for each in told if each["what"] == "off in layers"]
    if not off or gain <= 0:
        return None
    most = max(off, key=lambda each: float(each["rise"]["value"]))
    return {"layers": most["layers"], "share_lost": most["rise"]["value"] / gain}
