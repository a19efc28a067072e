"""What a request takes of the tuned model and of the best prompt, asked alone, and when tuning has paid back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any, ClassVar

from errands.reports.asking import ReportQuestion
from errands.reports.context import ReportContext, SectionSkipped
from errands.reports.parts import Answered, Json
from errands.reports.plan import ContenderPlan
from errands.reports.scoring import percentile
from storage.forecasts.making import Prices

NUM_ALONE = {"auto": 8, "full": 24}
"""Questions that are asked one after the other."""


class Cost:
    name: ClassVar[str] = "cost"
    cost: ClassVar[str] = "eight answers of two contenders, one after the other (`full`: 24)"

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        measured = context.of("contenders")
        by_name = {each["name"]: each for each in measured["contenders"]}
        prompted = _best_prompted(context, by_name)
        if prompted is None:
            raise SectionSkipped("there is no prompt to compare with: the base answered none")
        plan = ContenderPlan(context)
        other = next(each for each in plan.alternatives if each.name == prompted)
        cases = sorted(context.data.holdout, key=lambda case: case.rank)[
            -NUM_ALONE[context.depth] :
        ]
        questions = [
            plan.ground.question(each, case) for case in cases for each in (plan.tuned, other)
        ]
        answers = context.ask(self.name, questions, alone=True)
        tuned = _taken("tuned", questions, answers)
        base = _taken(prompted, questions, answers)
        if not tuned or not base:
            raise SectionSkipped("the models gave no answer that could be timed")
        training_s = training_seconds(context)
        return {
            "prompted": prompted,
            "requests": len(cases),
            "tuned": _told(by_name["tuned"], tuned),
            "base": _told(by_name[prompted], base),
            "training_seconds": training_s,
            **_break_even(tuned, base, training_s),
            "price": _price(context, _median(tuned), _median(base), training_s),
            "notes": [
                "Seconds are those of one request at a time on this installation, reading and writing together.",
                "Worked examples that are the same in every request are read once and then cached, so they cost little; "
                "rows that are looked up for each question never are.",
            ],
        }


def training_seconds(context: ReportContext) -> float | None:
    """From when a worker last took the job to its end."""
    job = context.job
    if job.finished_at is None or job.claimed_at is None:
        return None
    return round((job.finished_at - job.claimed_at).total_seconds(), 1)


def _best_prompted(context: ReportContext, by_name: Mapping[str, Json]) -> str | None:
    """The best alternative, if it is a prompt; else the prompt that did best on training rows."""
    best = context.of("contenders")["best_alternative"]
    if best is not None and by_name[best]["model"] is not None:
        return str(best)
    tried = {each["name"]: each["score"] for each in context.of("prompts")["tried"]}
    asked = [
        name for name, each in by_name.items() if each["model"] is not None and name != "tuned"
    ]
    return max(asked, key=lambda name: tried.get(name, -1.0), default=None)


def _taken(
    name: str, questions: list[ReportQuestion], answers: Mapping[str, Answered]
) -> list[Answered]:
    keys = [question.key for question in questions if question.key.startswith(f"{name}:")]
    return [answers[key] for key in keys if answers[key].error is None]


def _told(measured: Json, alone: list[Answered]) -> Json:
    seconds = [answered.seconds for answered in alone]
    return {
        "seconds_p50": percentile(seconds, 0.5),
        "seconds_p95": percentile(seconds, 0.95),
        **{name: measured[name] for name in ("prompt_tokens", "cached_tokens", "output_tokens")},
        "uncached_tokens": round(measured["prompt_tokens"] - measured["cached_tokens"], 1),
    }


def _break_even(tuned: list[Answered], base: list[Answered], training_s: float | None) -> Json:
    """After how many requests the seconds of training are saved; None for never."""
    # Pair by pair: the two were asked one after the other, in the same hour of the machine's.
    by_case = {answered.key.partition(":")[2]: answered.seconds for answered in base}
    pairs = [(each.key.partition(":")[2], each.seconds) for each in tuned]
    saved_s = median([by_case[case] - seconds for case, seconds in pairs if case in by_case] or [0])
    found: Json = {"seconds_saved_per_request": round(saved_s, 4), "break_even_requests": None}
    if training_s is not None and saved_s > 0:
        found["break_even_requests"] = math.ceil(training_s / saved_s)
    return found


def _price(
    context: ReportContext, tuned_s: float, base_s: float, training_s: float | None
) -> Json | None:
    """The same in the operator's prices; None where there are none of inference."""
    prices = Prices.of(context.errands.settings)
    if not prices.of_hour or training_s is None:
        return None
    training = prices.price(context.base, context.job.trained_tokens or 0, training_s)
    of_second = prices.of_hour / 3600
    saved = of_second * (base_s - tuned_s)
    return {
        "currency": prices.currency,
        "training": round(training, 6),
        "tuned_per_1000": round(1000 * of_second * tuned_s, 6),
        "base_per_1000": round(1000 * of_second * base_s, 6),
        "break_even_requests": math.ceil(training / saved) if saved > 0 else None,
    }


def _median(answers: list[Answered]) -> float:
    return percentile([answered.seconds for answered in answers], 0.5) or 0.0
