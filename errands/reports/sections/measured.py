"""The contenders on rows that were not learnt: how often each is right, what it writes, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from errands.reports.cases import Case
from errands.reports.contenders import Contender
from errands.reports.context import ReportContext, SectionSkipped, shortened
from errands.reports.parts import Answered, Json
from errands.reports.plan import ContenderPlan
from errands.reports.scoring import Scoring, mean, percentile, replies_of
from grading.measures.measure import ModelAnswer, RowScore

MAX_CASES = {"auto": 200, "full": 1000}
MIN_CASES = 48
"""That a small budget leaves: fewer show hardly anything."""
LOOSE = ("grounded", "zero_shot", "instructed")
"""What a small budget does without, in this order, where it is not the best alternative."""


NO_MODEL = "it is no model, and so finds no answer likely"


class Measured:
    name: ClassVar[str] = "contenders"
    cost: ClassVar[str] = (
        "the tuned model's answer to each row that was not learnt, and the base's for each prompt"
    )

    def make(self, context: ReportContext) -> Mapping[str, Any]:
        data = context.data
        if not data.holdout:
            raise SectionSkipped(data.why_none or "there are no rows that were not learnt")
        tried = context.of("prompts")
        plan = ContenderPlan(context)
        scoring = Scoring(context, plan, self.name)
        cases, contenders, left_out = _within_budget(context, plan, tried)
        answers = context.ask(self.name, plan.questions(contenders, cases))
        replies, refused = replies_of(plan, contenders, cases, answers)
        if "tuned" in refused:
            raise SectionSkipped(f"the tuned model does not answer: {refused['tuned']}")
        scores = scoring.score(replies)
        left_out |= {name: NO_MODEL for name in replies if name not in scores}
        clusters = [case.cluster for case in cases]
        found = [
            _told(each, cases, scores[each.name], clusters, answers, scoring, replies, context.seed)
            for each in contenders
            if each.name in scores
        ]
        best = tried["best"] if tried["best"] in scores else _next_best(tried, scores)
        return {
            "measure": scoring.primary,
            "rows": len({case.line for case in cases}),
            "cases": len(cases),
            "clusters": len(set(clusters)),
            "of_rows": data.num_rows,
            "best_alternative": best,
            "contenders": found,
            "left_out": left_out | refused,
            "notes": scoring.notes,
            "answers": [
                _row(case, place, contenders, scores, replies) for place, case in enumerate(cases)
            ],
        }


def _within_budget(
    context: ReportContext, plan: ContenderPlan, tried: Json
) -> tuple[list[Case], list[Contender], dict[str, str]]:
    """The rows and the contenders that the budget bears, by what the same prompts took on training rows."""
    best = tried["best"]
    chosen = [
        each
        for each in plan.alternatives
        if not each.name.startswith("few_shot") or each.name in (tried["few_shot"], best)
    ]
    left_out = {
        each.name: "another prompt with worked examples did better on training rows"
        for each in plan.alternatives
        if each not in chosen
    }
    refused = tried["refused"]
    left_out |= {name: why for name, why in refused.items() if name not in left_out}
    chosen = [each for each in chosen if each.name not in refused]
    cases = sorted(context.data.holdout, key=lambda case: case.rank)[: MAX_CASES[context.depth]]
    seconds: dict[str, float] = {each["name"]: each["seconds"] for each in tried["tried"]}
    guess = max(seconds.values(), default=1.0)

    def needed_s(num_cases: int) -> float:
        asked: list[float] = [seconds.get(each.name, guess) for each in chosen if each.model]
        return num_cases * (sum(asked) + min(asked, default=guess)) / context.asking.concurrency

    for name in LOOSE:
        if needed_s(min(len(cases), MIN_CASES)) > context.left_s and name != best:
            chosen = [each for each in chosen if each.name != name]
            left_out[name] = "the report's budget of time was too small for it"
    while len(cases) > MIN_CASES and needed_s(len(cases)) > context.left_s:
        cases = cases[: max(MIN_CASES, int(0.9 * len(cases)))]
    return sorted(cases, key=lambda case: (case.line, case.turn)), [*chosen, plan.tuned], left_out


def _told(
    contender: Contender,
    cases: Sequence[Case],
    scores: Sequence[RowScore],
    clusters: Sequence[str],
    answers: Mapping[str, Answered],
    scoring: Scoring,
    replies: Mapping[str, Sequence[tuple[Case, ModelAnswer]]],
    seed: int,
) -> Json:
    pairs = replies[contender.name]
    told: Json = {
        "name": contender.name,
        "title": contender.title,
        "model": contender.model,
        **contender.told,
        "primary": mean([score.primary for score in scores], clusters, seed),
        "also": _means(scores),
        "parts": _parts(scores, clusters, seed),
        "together": scoring.together(pairs),
        "different_answers": len({(r.text, str(r.tool_calls)) for _, r in pairs}),
        "empty_answers": sum(not r.text.strip() and not r.tool_calls for _, r in pairs),
    }
    if contender.model is None:
        return told
    asked = [answers[f"{contender.name}:{case.key}"] for case in cases]
    good = [answered for answered in asked if answered.error is None]
    count = max(1, len(good))
    return told | {
        "errors": len(asked) - len(good),
        "ended_by_length": sum(answered.finish_reason == "length" for answered in good),
        "prompt_tokens": round(sum(a.prompt_tokens for a in good) / count, 1),
        "cached_tokens": round(sum(a.cached_tokens for a in good) / count, 1),
        "output_tokens": round(sum(a.output_tokens for a in good) / count, 1),
        "seconds_p50": percentile([a.seconds for a in good], 0.5),
        "seconds_p95": percentile([a.seconds for a in good], 0.95),
    }


def _means(scores: Sequence[RowScore]) -> Json:
    names = dict.fromkeys(name for score in scores for name in score.also)
    return {
        name: round(_mean([s.also[name] for s in scores if name in s.also]), 6) for name in names
    }


def _parts(scores: Sequence[RowScore], clusters: Sequence[str], seed: int) -> Json:
    names = dict.fromkeys(name for score in scores for name in score.parts)
    found = {}
    for name in names:
        having = [
            (s.parts[name], c) for s, c in zip(scores, clusters, strict=True) if name in s.parts
        ]
        found[name] = mean([value for value, _ in having], [c for _, c in having], seed)
    return found


def _row(
    case: Case,
    place: int,
    contenders: Sequence[Contender],
    scores: Mapping[str, Sequence[RowScore]],
    replies: Mapping[str, Sequence[tuple[Case, ModelAnswer]]],
) -> Json:
    names = [each.name for each in contenders if each.name in scores]
    return {
        "line": case.line,
        "turn": case.turn,
        "cluster": case.cluster,
        "asked": shortened(case.query, 1000),
        "wanted": _text(case.wanted),
        "answers": {name: _text(replies[name][place][1]) for name in names},
        "scores": {name: round(scores[name][place].primary, 6) for name in names},
        "parts": {
            name: {part: round(v, 6) for part, v in scores[name][place].parts.items()}
            for name in names
        },
    }


def _text(reply: ModelAnswer) -> str:
    calls = [call.get("function") or {} for call in reply.tool_calls]
    said = [reply.text, *(f"{c.get('name')}({c.get('arguments')})" for c in calls)]
    return shortened("\n".join(filter(None, said)))


def _next_best(tried: Json, scores: Mapping[str, Sequence[RowScore]]) -> str | None:
    """Of those that are there, the one that did best on training rows."""
    left = [each for each in tried["tried"] if each["name"] in scores]
    return max(left, key=lambda each: float(each["score"]))["name"] if left else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
