"""What each epoch did: the answers to the job's own probes, before training and after each epoch, and its checkpoints' metrics."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports.context import ReportContext, SectionSkipped, shortened
from errands.reports.parts import Json
from storage.jobs import checkpoints, probes

PAGE = 1000


class Epochs:
    name: ClassVar[str] = "epochs"
    cost: ClassVar[str] = "nothing: what the job's probes were answered while it trained"

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        with context.errands.sessions() as session:
            rows = probes.page(session, context.job.id, after=None, limit=PAGE).rows
            kept = [
                {"step": row.step, "model": row.model_name, "metrics": row.metrics}
                for row in checkpoints.all(session, context.job.id)
            ]
        answered = [row.data for row in rows if row.data is not None and "answer" in row.data]
        if not answered and not kept:
            raise SectionSkipped(
                "the job had no probes (`luthier.probes` of its method's hyperparameters) and has no checkpoints"
            )
        return {"checkpoints": kept, "probes": _by_probe(answered)}


def _by_probe(answered: Sequence[Json]) -> list[Json]:
    answers: defaultdict[int, list[Json]] = defaultdict(list)
    for each in answered:
        answers[each["probe"]].append(each)
    return [_told(number, answers[number]) for number in sorted(answers)]


def _told(number: int, answers: Sequence[Json]) -> Json:
    """In the order of the epochs, each with how much of the one before is still there."""
    ordered = sorted(answers, key=lambda each: int(each["step"]))
    told: list[Json] = []
    before: str | None = None
    settled_at = ordered[-1]["step"]
    for each in ordered:
        answer = str(each["answer"] or "")
        like = (
            None
            if before is None
            else difflib.SequenceMatcher(None, before[:2000], answer[:2000], autojunk=False).ratio()
        )
        told.append(
            {
                "step": each["step"],
                "answer": shortened(answer),
                "finish_reason": each.get("finish_reason"),
                "like_the_one_before": None if like is None else round(like, 4),
            }
        )
        before = answer
    last = str(ordered[-1]["answer"] or "")
    for each in reversed(ordered):
        if str(each["answer"] or "") != last:
            break
        settled_at = each["step"]
    asked = {name: ordered[0][name] for name in ("messages", "prompt") if ordered[0].get(name)}
    return {"probe": number, **asked, "answers": told, "settled_at_step": settled_at}
