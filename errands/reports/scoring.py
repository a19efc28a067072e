"""What the contenders' answers are worth: by the measure of the task, or by a grader of the user's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import orjson

from errands.batches.gateway import TimedOut
from grading import graders
from grading.grade import ModelFailed, Sample, grade
from grading.graders import Grader
from grading.measures import measures
from grading.measures.measure import Measure, ModelAnswer, RowScore
from grading.statistics import Interval, bootstrap, wilson

from . import likelihood
from .asking import CHAT_PATH
from .cases import Case
from .contenders import Contender
from .context import ReportContext
from .likelihood import Likelihood
from .parts import Answered, Json
from .plan import ContenderPlan

GRADES, LIKELIHOOD = "{}-grades", "{}-likelihood"
"""Under which a section's grades and likelihoods are kept."""
GRADED_AT_ONCE = 8
MAX_UNGRADED = 0.1
"""Of the answers: with more than that, the grader's word is none."""


class Scoring:
    """Decided before anything is asked, so that no figure could have chosen it."""

    def __init__(self, context: ReportContext, plan: ContenderPlan, section: str) -> None:
        assert context.data.task is not None
        self._context = context
        self._plan = plan
        self._section = section
        self._measure: Measure = measures.of_task(context.data.task)
        asked = context.asked.get("grader")
        self._grader: Grader | None = None if asked is None else graders.parse(asked)
        self.notes: list[str] = []
        self._is_graded = self._grader is not None
        # Free answers may be good in many ways; how near one is to the wanted one is not told by its words.
        is_free = context.data.task.type == "chat" and self._grader is None
        self._likelihood = Likelihood.open(context) if is_free else None

    @property
    def primary(self) -> str:
        if self._grader is not None and self._is_graded:
            return f"the grader '{self._grader.name}'"
        if self._likelihood is not None:
            return likelihood.NAME
        return self._measure.primary

    def score(
        self, replies: Mapping[str, Sequence[tuple[Case, ModelAnswer]]]
    ) -> dict[str, list[RowScore]]:
        """By contenders. A grader that cannot grade is told of, and the measure of the task is used instead."""
        scores = {
            name: [self._measure.score(reply, case.wanted) for case, reply in pairs]
            for name, pairs in replies.items()
        }
        if self._likelihood is not None:
            return self._likely(self._likelihood, replies, scores)
        if self._grader is None:
            return scores
        grades = self._grades(replies)
        failed = [each.error for each in grades.values() if each.error is not None]
        if len(failed) > MAX_UNGRADED * len(grades):
            self._is_graded = False
            ((most, _),) = Counter(failed).most_common(1)
            self.notes.append(
                f"The grader '{self._grader.name}' could not grade {len(failed)} of {len(grades)} answers ({most}), so "
                f"the figures are by: {self._measure.primary}."
            )
            return scores
        return {
            name: [
                RowScore(
                    float(grades[f"{name}:{case.key}"].text or 0),
                    {self._measure.primary: score.primary, **score.also},
                    score.parts,
                )
                for (case, _), score in zip(pairs, scores[name], strict=True)
            ]
            for name, pairs in replies.items()
        }

    def _likely(
        self,
        measured: Likelihood,
        replies: Mapping[str, Sequence[tuple[Case, ModelAnswer]]],
        scores: Mapping[str, list[RowScore]],
    ) -> dict[str, list[RowScore]]:
        """Of those that have a model: the others find nothing probable."""
        contenders = [*self._plan.alternatives, self._plan.tuned]
        asked = [each for each in contenders if each.name in replies and each.model is not None]
        cases = [case for case, _ in replies[asked[0].name]] if asked else []
        questions = (
            question
            for case in cases
            for each in asked
            if (question := measured.question(self._plan.ground, each, case)) is not None
        )
        answers = self._context.ask(LIKELIHOOD.format(self._section), questions)
        failed = [each.error for each in answers.values() if each.error is not None]
        if len(failed) > MAX_UNGRADED * len(answers) or not answers:
            self._likelihood = None
            why = failed[0] if failed else "none of them can be put in the base's tokens"
            self.notes.append(
                f"How likely models find the wanted answers is not known ({why}), so the figures are by: {self._measure.primary}."
            )
            return dict(scores)
        found: dict[str, list[RowScore]] = {}
        for each in asked:
            keys = [f"{each.name}:{case.key}" for case in cases]
            found[each.name] = [
                RowScore(
                    likelihood.mean_likelihood(answers[key]) if key in answers else 0.0,
                    {self._measure.primary: score.primary, **score.also},
                )
                for key, score in zip(keys, scores[each.name], strict=True)
            ]
        return found

    def together(self, pairs: Sequence[tuple[Case, ModelAnswer]]) -> Json:
        return self._measure.together([(reply, case.wanted) for case, reply in pairs])

    def _grades(
        self, replies: Mapping[str, Sequence[tuple[Case, ModelAnswer]]]
    ) -> dict[str, Answered]:
        context, section = self._context, GRADES.format(self._section)
        grades = context.parts.answers(section)
        missing = [
            (f"{name}:{case.key}", case, reply)
            for name, pairs in replies.items()
            for case, reply in pairs
            if f"{name}:{case.key}" not in grades
        ]
        for start in range(0, len(missing), GRADED_AT_ONCE):
            context.lease.check()
            fresh = asyncio.run(self._grade_all(missing[start : start + GRADED_AT_ONCE]))
            context.parts.keep_answers(section, fresh)
            grades |= {each.key: each for each in fresh}
        return {
            f"{name}:{case.key}": grades[f"{name}:{case.key}"]
            for name, pairs in replies.items()
            for case, _ in pairs
        }

    async def _grade_all(self, missing: Sequence[tuple[str, Case, ModelAnswer]]) -> list[Answered]:
        return list(await asyncio.gather(*(self._grade(*each) for each in missing)))

    async def _grade(self, key: str, case: Case, reply: ModelAnswer) -> Answered:
        assert self._grader is not None
        sample = Sample(reply.text, list(reply.tool_calls))
        graded = await grade(self._grader, sample, item_of(case), self._complete)
        error = None
        if graded.errors.any:
            error = graded.errors.details or "it gave no grade"
        return Answered(key, text=repr(graded.reward), error=error and error[:300])

    async def _complete(self, body: Json) -> Json:
        """Raises ModelFailed."""
        report = self._context.lease.report
        gateway = self._context.errands.gateway
        asked = gateway.ask(report.project_id, report.id, CHAT_PATH, orjson.dumps(body))
        try:
            reply = await asyncio.wrap_future(asked)
        except TimedOut:
            raise ModelFailed("The model did not answer in time.") from None
        if reply.status != 200:
            error = reply.body.get("error") or {}
            raise ModelFailed(str(error.get("message") or reply.status), error.get("param"))
        completion: Json = reply.body
        return completion


def item_of(case: Case) -> Json:
    """What templates of a grader may name of a row."""
    item: Json = {"reference_answer": case.wanted.text, "input": case.query, "line": case.line}
    if case.is_chat:
        item["messages"] = list(case.messages)
        item["reference_tools"] = list(case.wanted.tool_calls)
    else:
        item["prompt"] = case.prompt
    return item


def mean(scores: Sequence[float], clusters: Sequence[str], seed: int) -> Json:
    """A figure of rows, with its interval and how that was found."""
    interval, method = _interval(scores, clusters, seed)
    return {**figures(interval), "n": len(scores), "method": method}


def figures(interval: Interval) -> Json:
    return {
        "value": round(interval.value, 6),
        "low": round(interval.low, 6),
        "high": round(interval.high, 6),
    }


def _interval(scores: Sequence[float], clusters: Sequence[str], seed: int) -> tuple[Interval, str]:
    is_binary = set(scores) <= {0.0, 1.0}
    if is_binary and len(set(clusters)) == len(scores):
        return wilson(int(sum(scores)), len(scores)), "wilson"
    return bootstrap(scores, clusters, seed=seed), "bootstrap"


def replies_of(
    plan: ContenderPlan,
    contenders: Sequence[Contender],
    cases: Sequence[Case],
    answers: Mapping[str, Answered],
) -> tuple[dict[str, list[tuple[Case, ModelAnswer]]], dict[str, str]]:
    """What each answered to each case; and of those that answered nothing at all, why. An error is an empty answer."""
    replies: dict[str, list[tuple[Case, ModelAnswer]]] = {}
    refused: dict[str, str] = {}
    for each in contenders:
        if each.model is None:
            replies[each.name] = [(case, plan.ground.reply(each, case)) for case in cases]
            continue
        found = [answers[f"{each.name}:{case.key}"] for case in cases]
        errors = [answered.error for answered in found if answered.error]
        if len(errors) == len(found):
            refused[each.name] = errors[0]
            continue
        replies[each.name] = [
            (case, ModelAnswer(answered.text, tuple(answered.tool_calls)))
            for case, answered in zip(cases, found, strict=True)
        ]
    return replies, refused


def percentile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
