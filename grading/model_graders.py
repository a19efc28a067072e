"""Graders that ask a model: the question, and the reading of its answer.

The answer's form is asked for twice: by a JSON schema, which an inference server may enforce, and in words at the
end of the last message. Small models keep to neither, so the reading is lenient in form and strict in meaning:
what could mean two things means nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

from .graders import GraderSampling, LabelModelGrader, ScoreModelGrader
from .reward import CannotGrade, GraderUsage

MAX_ANSWER_TOKENS = 256
"""Unless the grader says otherwise. An answer is short; a model that rambles is cut off."""

Json = dict[str, Any]
Render = Callable[[str], str]

_DIGITS = r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?![\w%]|\.\d|\s*/)"
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}")
_LABELLED = re.compile(
    rf"\b(?:score|result|rating|answer)\W{{0,8}}(?:is|of)?\W{{0,4}}?{_DIGITS}", re.I
)
_FRACTION = re.compile(r"\d\s*/\s*\d")
_OBJECT = re.compile(r"\{[^{}]*\}")


def score_request(grader: ScoreModelGrader, render: Render) -> Json:
    """The body of a chat completion. `render` puts the variables into a text, and may raise."""
    low, high = grader.range
    words = f'Answer with JSON only: {{"result": <a number from {low:g} to {high:g}>}}'
    schema = {"type": "number", "minimum": low, "maximum": high}
    return _request(grader, render, words, schema)


def label_request(grader: LabelModelGrader, render: Render) -> Json:
    """Likewise."""
    labels = ", ".join(json.dumps(label, ensure_ascii=False) for label in grader.labels)
    words = f'Answer with JSON only: {{"result": <one of {labels}>}}'
    return _request(grader, render, words, {"type": "string", "enum": grader.labels})


def _request(
    grader: ScoreModelGrader | LabelModelGrader, render: Render, words: str, schema: Json
) -> Json:
    messages = [
        {"role": each.role, "content": "\n".join(map(render, each.texts))} for each in grader.input
    ]
    # No message of its own: many chat templates want the roles in a certain order.
    messages[-1]["content"] += f"\n\n{words}"
    sampling = grader.sampling_params or GraderSampling()
    body: Json = {
        "model": grader.model,
        "messages": messages,
        # The same answer each time, unless told otherwise.
        "temperature": 0 if sampling.temperature is None else sampling.temperature,
        "max_completion_tokens": sampling.max_completions_tokens
        or sampling.max_completion_tokens
        or MAX_ANSWER_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "grade",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"result": schema},
                    "required": ["result"],
                    "additionalProperties": False,
                },
            },
        },
    }
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    return body


def usage(completion: Json) -> GraderUsage:
    """What an answer took, as far as the server tells."""
    told = completion.get("usage") or {}
    details = told.get("prompt_tokens_details") or {}
    prompt, answer = told.get("prompt_tokens") or 0, told.get("completion_tokens") or 0
    cached = details.get("cached_tokens") or 0
    return GraderUsage(prompt, answer, told.get("total_tokens") or prompt + answer, cached)


def content(completion: Json) -> str:
    """The model's words. Raises CannotGrade where it refused, or said nothing."""
    choices = completion.get("choices") or [{}]
    message = choices[0].get("message") or {}
    if message.get("refusal"):
        refusal = str(message["refusal"])[:500]
        raise CannotGrade("model_grader_refusal_error", f"The model refused: {refusal}")
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        raise CannotGrade("unresponsive_reward_error", "The model gave an empty answer.")
    return text.strip()


def score(text: str, low: float, high: float) -> float:
    """The number that an answer gives. Raises CannotGrade for none, several, or one out of range."""
    value = _result(text)
    number = float(value) if _is_number(value) else _number_in(text)
    if number is None or not math.isfinite(number):
        raise _unreadable(text, f"a number from {low:g} to {high:g}")
    if not low <= number <= high:
        raise _unreadable(text, f"a number from {low:g} to {high:g}")
    return number


def label(text: str, labels: Sequence[str]) -> str:
    """The label that an answer gives. Raises CannotGrade for none or several."""
    value = _result(text)
    bare = (value if isinstance(value, str) else text).strip(" \t\n\r\"'`*.").casefold()
    if value in labels:
        return str(value)
    found = [each for each in labels if each.casefold() == bare] or _labels_in(text, labels)
    if len(found) != 1:
        raise _unreadable(text, "one of the labels")
    return found[0]


def _labels_in(text: str, labels: Sequence[str]) -> list[str]:
    """Those that stand as words in the text; `not good` does not count as `good`, too."""
    found, rest = [], text
    for each in sorted(labels, key=len, reverse=True):
        pattern = re.compile(rf"(?<!\w){re.escape(each)}(?!\w)", re.I)
        if each.strip() and pattern.search(rest):
            found.append(each)
            rest = pattern.sub("\0", rest)
    return found


def _result(text: str) -> object:
    """The `result` of the one JSON object in the text, or the whole text as JSON; else None."""
    values = set()
    for candidate in (text, *_OBJECT.findall(text)):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            value = next((value[k] for k in ("result", "score", "label") if k in value), None)
        if isinstance(value, str | int | float):
            values.add(value)
    return values.pop() if len(values) == 1 else None


def _is_number(value: object) -> TypeGuard[str | int | float]:
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, int | float) and abs(value) < 1e300


def _number_in(text: str) -> float | None:
    """The number called a score, else the only one. `8/10` could be meant on either scale."""
    if _FRACTION.search(text):
        return None
    for pattern in (_LABELLED, _NUMBER):
        numbers = {float(match[1]) for match in pattern.finditer(text)}
        if numbers:
            return numbers.pop() if len(numbers) == 1 else None
    return None


def _unreadable(text: str, expected: str) -> CannotGrade:
    return CannotGrade(
        "model_grader_parse_error", f"The model answered {text[:200]!r} instead of {expected}."
    )
