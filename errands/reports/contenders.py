"""Who is compared: the tuned model, its base asked in several ways, and answers that need no model at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from dataset.neighbours import Neighbours
from dataset.task_type import DetectedTask
from grading.measures import json_values
from grading.measures.json_values import NotJson
from grading.measures.measure import ModelAnswer

from .asking import ReportQuestion
from .cases import Case
from .prompts import Ending, Wording

NUM_VOTES = 8
NUM_NEAR = 6
"""Training rows that are shown beside a question."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    name: str
    title: str
    model: str | None = None
    """That is asked; None for an answer that needs none."""
    prompt: Wording = field(default_factory=Wording)
    num_near: int = 0
    is_copy: bool = False
    """Of those without a model: it goes by the rows that are near, not by all."""

    @property
    def told(self) -> Json:
        """How it is asked, for a report."""
        if self.model is None:
            return {}
        return {
            "instruction": self.prompt.instruction,
            "shots": [shot.line for shot in self.prompt.shots],
            "near": self.num_near,
        }


CONSTANT = Contender("constant", "the most common answer, whatever is asked")
COPY = Contender(
    "copy", f"a vote of the {NUM_VOTES} nearest training rows (no model)", is_copy=True
)


class Ground:
    """What contenders go by: training rows to copy from and to show, and when an answer is over."""

    def __init__(self, training: Sequence[Case], task: DetectedTask, ending: Ending) -> None:
        self.training = training
        self.task = task
        self.ending = ending
        self._index = Neighbours([case.query for case in training])

    def near(self, case: Case, count: int) -> list[Case]:
        """Training cases, the nearest last, where a reader looks at it last; none that asks the very same."""
        places = self._index.nearest(
            case.query, count, passes=lambda p: self.training[p].question != case.question
        )
        return [self.training[place] for place in reversed(places)]

    def question(self, contender: Contender, case: Case) -> ReportQuestion:
        """For one with a model."""
        near = self.near(case, contender.num_near) if contender.num_near else ()
        key = f"{contender.name}:{case.key}"
        return contender.prompt.question(key, contender.model or "", case, self.ending, near)

    def reply(self, contender: Contender, case: Case) -> ModelAnswer:
        """Of one without a model."""
        voters = self.near(case, NUM_VOTES)[::-1] if contender.is_copy else self.training
        return _voted([voter.wanted for voter in voters], self.task)


def diverse(cases: Sequence[Case], count: int, seed: int) -> tuple[Case, ...]:
    """Greedily: next comes the case whose values have been shown least often so far."""
    rest = sorted(cases, key=lambda case: case.rank ^ (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1))
    values = {case.key: _values(case.wanted) for case in rest}
    shown: Counter[str] = Counter()
    chosen: list[Case] = []
    while rest and len(chosen) < count:
        best = min(rest, key=lambda case: _mean(shown[value] for value in values[case.key]))
        rest.remove(best)
        chosen.append(best)
        shown.update(values[best.key])
    return tuple(chosen)


def _voted(wanted: Sequence[ModelAnswer], task: DetectedTask) -> ModelAnswer:
    """What most of them say, field by field where they are JSON; the first of equals."""
    if not wanted:
        return ModelAnswer("")
    if task.type == "json":
        return _voted_json(wanted)
    if task.type == "tools":
        calls = Counter(orjson.dumps([c.get("function") for c in w.tool_calls]) for w in wanted)
        ((most, _),) = calls.most_common(1)
        return ModelAnswer("", [{"function": function} for function in orjson.loads(most)])
    counts = Counter(reply.text.strip() for reply in wanted)
    ((text, _),) = counts.most_common(1)
    return ModelAnswer(text)


def _voted_json(wanted: Sequence[ModelAnswer]) -> ModelAnswer:
    votes: dict[str, Counter[bytes]] = {}
    for reply in wanted:
        try:
            value = json_values.read(reply.text)
        except NotJson:
            continue
        if not isinstance(value, dict):
            return ModelAnswer(Counter(reply.text for reply in wanted).most_common(1)[0][0])
        for name, part in value.items():
            votes.setdefault(name, Counter())[orjson.dumps(part, option=orjson.OPT_SORT_KEYS)] += 1
    is_usual = {name: count.total() * 2 > len(wanted) for name, count in votes.items()}
    fields = {
        name: orjson.loads(count.most_common(1)[0][0])
        for name, count in votes.items()
        if is_usual[name]
    }
    return ModelAnswer(orjson.dumps(fields).decode())


def _values(wanted: ModelAnswer) -> list[str]:
    if wanted.tool_calls:
        return [str((call.get("function") or {}).get("name")) for call in wanted.tool_calls]
    try:
        value = json_values.read(wanted.text)
    except NotJson:
        return wanted.text.casefold().split()[:50] or [""]
    fields = value if isinstance(value, dict) else {"": value}
    return [f"{name}={part}" for name, part in fields.items()] or [""]


def _mean(counts: Iterable[int]) -> float:
    found = list(counts)
    return sum(found) / len(found)
