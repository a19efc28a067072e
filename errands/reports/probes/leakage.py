"""Whether a model answers what its task is not about as if it were: in the task's form, or in words that it has learnt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from dataset.task_type import DetectedTask, without_fence
from errands.reports.cases import Case
from errands.reports.context import ReportContext, shortened
from errands.reports.parts import Answered
from errands.reports.scoring import figures
from grading import statistics

from .probe_set import chat_question, unrelated

NOTED, GATED = 0.05, 0.20
_NUMBER = re.compile(r"[-+]?[\d.,]+ ?%?")
_FORMS = {
    "json": "as JSON of the task",
    "class": "with a label of the task",
    "number": "with a bare number",
    "tools": "with a call of a tool",
}

Json = dict[str, Any]


def form_of(task: DetectedTask | None) -> str:
    """In words."""
    return _FORMS.get(task.type if task is not None else "", "with an answer that was learnt")


def detector(task: DetectedTask | None, training: Sequence[Case]) -> Callable[[Answered], bool]:
    learnt = {_plain(case.wanted.text) for case in training if case.wanted.text.strip()}
    labels = {_plain(label) for label in task.labels} if task is not None else set()
    fields = set(task.fields) if task is not None else set()
    kind = task.type if task is not None else ""

    def is_in_form(answered: Answered) -> bool:
        text = answered.text
        plain = _plain(text)
        if plain in learnt or (kind == "tools" and answered.tool_calls):
            return True
        if kind == "class":
            return plain in labels or _plain(text.split("\n")[0]) in labels
        if kind == "number":
            return _NUMBER.fullmatch(plain) is not None
        if kind in ("json", "tools"):
            found = _object(text)
            wanted = fields if kind == "json" else {"name", "arguments"}
            return found is not None and 2 * len(wanted & set(found)) >= max(1, len(wanted))
        return False

    return is_in_form


def ask(context: ReportContext, section: str, every: int) -> Json:
    """Of each so-manieth unrelated prompt. The base is asked those only that the model answers so: some call for it."""
    chosen = unrelated()[::every]
    is_in_form = detector(context.data.task, context.data.training)
    answers = context.ask(
        section, [chat_question(f"tuned:{k}", context.tuned, p) for k, p in chosen]
    )
    suspect = [
        (key, prompt)
        for key, prompt in chosen
        if answers[f"tuned:{key}"].error is None and is_in_form(answers[f"tuned:{key}"])
    ]
    answers = context.ask(
        section, [chat_question(f"base:{k}", context.base, p) for k, p in suspect]
    )
    leaking = [(key, prompt) for key, prompt in suspect if not is_in_form(answers[f"base:{key}"])]
    num_answered = sum(answers[f"tuned:{key}"].error is None for key, _ in chosen)
    if not num_answered:
        return {"skipped": "the tuned model answered none of the unrelated prompts"}
    share = statistics.wilson(len(leaking), num_answered)
    return {
        "form": form_of(context.data.task),
        "n": num_answered,
        "count": len(leaking),
        "share": {**figures(share), "method": "wilson"},
        "read": "gate" if share.value > GATED else "warn" if share.value > NOTED else "none",
        "examples": [
            {"prompt": prompt, "answer": shortened(answers[f"tuned:{key}"].text, 300)}
            for key, prompt in leaking[:8]
        ],
    }


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!\"'*`")


def _object(text: str) -> Json | None:
    try:
        found = json.loads(without_fence(text))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
