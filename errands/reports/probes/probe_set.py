"""The probes, as questions, and what becomes of their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from errands.reports.asking import CHAT_PATH, TEXT_PATH, ReportQuestion
from errands.reports.parts import Answered

from . import checks

MAX_ANSWER_TOKENS = 96
FILE = Path(__file__).with_name("probes.json")

Json = dict[str, Any]


@dataclass(frozen=True)
class ReportProbe:
    id: str
    family: str
    prompt: str
    choices: tuple[str, ...] = ()
    """What may follow the prompt, the right one first; none where an answer is written."""
    check: Mapping[str, Any] | None = None

    def question(self, who: str, model: str) -> ReportQuestion:
        key = f"{who}:{self.id}"
        if self.choices:
            # No token is written: what is told is how likely those are that are given.
            prompts = [self.prompt + choice for choice in self.choices]
            body = {"model": model, "prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 0}
            return ReportQuestion(key, TEXT_PATH, body, read=self._likelihoods)
        return chat_question(key, model, self.prompt)

    def is_right(self, answered: Answered) -> bool:
        if answered.error is not None:
            return False
        if self.choices:
            return self.margin(answered) > 0
        return checks.passes(self.check or {}, answered.text)

    def margin(self, answered: Answered) -> float:
        """By how much the right choice is likelier than the best of the others, in nats a byte."""
        right, *others = json.loads(answered.text)
        return float(right - max(others))

    def _likelihoods(self, body: Json) -> str:
        """Of each choice, a byte of it."""
        found = []
        for choice, reply in zip(self.choices, body["choices"], strict=True):
            told = reply["logprobs"]
            pairs = zip(told["text_offset"], told["token_logprobs"], strict=True)
            # A token may reach over the end of the prompt.
            own = [value for offset, value in pairs if offset >= len(self.prompt)]
            found.append(sum(own) / len(choice.encode()))
        return json.dumps(found)


def chat_question(key: str, model: str, prompt: str) -> ReportQuestion:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": MAX_ANSWER_TOKENS,
    }
    return ReportQuestion(key, CHAT_PATH, body)


@cache
def version() -> int:
    return int(_file()["version"])


@cache
def probes() -> tuple[ReportProbe, ...]:
    return tuple(
        ReportProbe(
            each["id"],
            each["family"],
            each["prompt"],
            tuple(each.get("choices", ())),
            each.get("check"),
        )
        for each in _file()["probes"]
    )


@cache
def unrelated() -> tuple[tuple[str, str], ...]:
    """(id, prompt) of what no task is about."""
    return tuple((each["id"], each["prompt"]) for each in _file()["unrelated"])


def by_family(chosen: Sequence[ReportProbe]) -> dict[str, list[ReportProbe]]:
    families: dict[str, list[ReportProbe]] = {}
    for probe in chosen:
        families.setdefault(probe.family, []).append(probe)
    return families


@cache
def _file() -> Json:
    found: Json = json.loads(FILE.read_text(encoding="utf-8"))
    return found
