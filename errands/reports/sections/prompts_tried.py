"""How the base is asked best, found on training rows: the base has never seen them, and reported rows have no say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports.cases import Case
from errands.reports.contenders import Contender
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Answered, Json
from errands.reports.plan import ContenderPlan
from errands.reports.scoring import Scoring, replies_of

BLOCK = 4
"""Rows between two looks at the time."""


class PromptsTried:
    name: ClassVar[str] = "prompts"
    cost: ClassVar[str] = (
        "the base's answers to 16 training rows for each of up to seven prompts (`full`: 32 rows, 13 prompts)"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        if not context.data.holdout:
            raise SectionSkipped("there are no rows that were not learnt to compare on")
        plan = ContenderPlan(context)
        if not plan.dev:
            # Nothing to choose by: the way that the rows ask is the one that everybody begins with.
            return {"rows": 0, "tried": [], "refused": {}, "few_shot": None, "best": "zero_shot"}
        scoring = Scoring(context, plan, self.name)
        dev, answers = self._asked(context, plan)
        replies, refused = replies_of(plan, plan.alternatives, dev, answers)
        tried = {
            name: {
                "score": round(sum(score.primary for score in scores) / len(scores), 6),
                **_effort([answers[k] for k in _keys(name, dev) if k in answers]),
            }
            for name, scores in scoring.score(replies).items()
        }
        told: Sequence[Contender] = [each for each in plan.alternatives if each.name in tried]
        return {
            "rows": len(dev),
            "measure": scoring.primary,
            "tried": [
                {"name": each.name, "title": each.title, **tried[each.name], **each.told}
                for each in told
            ],
            "refused": refused,
            "few_shot": _best([name for name in tried if name.startswith("few_shot")], tried),
            "best": _best(list(tried), tried),
            "notes": scoring.notes,
        }

    def _asked(
        self, context: ReportContext, plan: ContenderPlan
    ) -> tuple[list[Case], dict[str, Answered]]:
        """On as many rows as half of the budget bears: by what was measured, so that a second attempt stops there, too."""
        dev: list[Case] = []
        answers: dict[str, Answered] = {}
        for start in range(0, len(plan.dev), BLOCK):
            dev += plan.dev[start : start + BLOCK]
            answers = context.ask(self.name, plan.questions(plan.alternatives, dev))
            seconds = sum(answered.seconds for answered in answers.values())
            if seconds / context.asking.concurrency > context.left_s / 2:
                break
        return dev, answers


def _keys(name: str, cases: Sequence[Case]) -> list[str]:
    return [f"{name}:{case.key}" for case in cases]


def _effort(answers: Sequence[Answered]) -> Json:
    count = max(1, len(answers))
    return {
        "prompt_tokens": round(sum(answered.prompt_tokens for answered in answers) / count, 1),
        "seconds": round(sum(answered.seconds for answered in answers) / count, 4),
    }


def _best(names: list[str], tried: Mapping[str, Json]) -> str | None:
    """The best score; of equals the one that costs fewer tokens."""
    by = {name: (tried[name]["score"], -tried[name]["prompt_tokens"]) for name in names}
    return max(names, key=by.__getitem__, default=None)
