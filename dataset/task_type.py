"""What a training file teaches, from its last answers: which figure tells whether a model can do it goes by that."""

from __future__ import annotations

import ast
import json
import random
import re
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from rapidfuzz.distance import LCSseq

from .formats.row_format import Row
from .languages import language_of

TaskType = Literal["tools", "json", "class", "number", "extract", "code", "rewrite", "chat"]
FieldKind = Literal["closed", "number", "list", "text"]

MAX_ROWS_KEPT = 2000
"""So many rows are looked at, drawn evenly from all that there are."""
MAX_FIELDS = 64
_MAX_LABEL_CHARS = 200
_MAX_COMPARED_CHARS = 4000
_MAX_PROMPT_CHARS, _MAX_ANSWER_CHARS = 8000, 16_000
"""What is kept of a row."""
_MAX_NUMBER_CHARS = 40
_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d+)?\s*%?")


@dataclass(frozen=True, slots=True)
class LastTurn:
    """What a row teaches last: the answer, and what was said to it before, but for a system message."""

    prompt: str
    answer: str
    has_calls: bool = False


@dataclass(frozen=True, slots=True)
class JsonField:
    """A key of the answers, if they are objects."""

    kind: FieldKind
    values: tuple[str, ...]
    """Of a closed field: as JSON, the most frequent one first."""


@dataclass(frozen=True, slots=True)
class DetectedTask:
    type: TaskType
    num_rows: int
    """That were there; of more than `MAX_ROWS_KEPT` so many were looked at."""
    share: float
    """Of the rows looked at, those that are of the type."""
    labels: Mapping[str, int]
    """Of a task of type class: how many of the rows looked at have each, the most frequent one first."""
    fields: Mapping[str, JsonField]
    """Of a task of type json, by key."""
    fenced_share: float
    """Of answers in a Markdown fence, which is stripped before they are read as JSON."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is said of a row."""

    has_calls: bool
    is_fenced: bool
    is_json: bool
    fields: Mapping[str, tuple[FieldKind, str]]
    label: str | None
    num_words: int
    is_number: bool
    is_extracted: bool
    is_code: bool
    is_rewritten: bool


class TaskTypeCollector:
    """Sees the rows of a file one by one, in bounded memory, and says what they teach.

    Which rows are kept depends on how many there are, not on what is in them.
    """

    def __init__(self, max_rows: int = MAX_ROWS_KEPT) -> None:
        self._max_rows = max_rows
        self._kept: list[LastTurn] = []
        self._random = random.Random(0)
        self.num_rows = 0

    def add(self, turn: LastTurn) -> None:
        place = self.next_place()
        if place is not None:
            self.put(place, turn)

    def next_place(self) -> int | None:
        """For another row: where it would be kept, or None if it is not. So nobody need look at it in vain."""
        self.num_rows += 1
        if len(self._kept) < self._max_rows:
            return len(self._kept)
        place = int(self._random.random() * self.num_rows)
        return place if place < self._max_rows else None

    def put(self, place: int, turn: LastTurn) -> None:
        kept = LastTurn(
            turn.prompt[:_MAX_PROMPT_CHARS], turn.answer[:_MAX_ANSWER_CHARS], turn.has_calls
        )
        if place == len(self._kept):
            self._kept.append(kept)
        else:
            self._kept[place] = kept

    def result(self) -> DetectedTask:
        rows = [_look(turn) for turn in self._kept]
        detected, share = _type_of(rows)
        return DetectedTask(
            type=detected,
            num_rows=self.num_rows,
            share=share,
            labels=dict(_labels(rows).most_common()) if detected == "class" else {},
            fields=_fields(rows) if detected == "json" else {},
            fenced_share=_share(row.is_fenced for row in rows),
        )


def task_of(rows: Iterable[Row]) -> DetectedTask:
    """The task of rows of any form."""
    collector = TaskTypeCollector()
    for row in rows:
        if (turn := last_turn(row)) is not None:
            collector.add(turn)
    return collector.result()


def last_turn(row: Row) -> LastTurn | None:
    """Of a row without a problem, whatever form it has; None of raw text, which answers nothing."""
    if "preferred_output" in row or "preferred_completion" in row:
        asked = row["input"]["messages"]
        return _last_of([*asked, *(row.get("preferred_output") or row["preferred_completion"])])
    if "messages" in row:
        return _last_of(row["messages"])
    if "completion" in row:
        return LastTurn(row["prompt"], row["completion"])
    if "label" in row:
        return LastTurn(row["text"], row["label"])
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says, a refusal included."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or message.get("refusal") or ""


def without_fence(answer: str) -> str:
    """What stands in a Markdown fence, if the answer is one, else the answer itself."""
    found = _FENCE.match(answer)
    return found[1] if found else answer


def _last_of(messages: Sequence[Mapping[str, Any]]) -> LastTurn | None:
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message["role"] == "assistant":
            asked = (text_of(m) for m in messages[:index] if m["role"] not in _NOT_ASKED)
            calls = message.get("tool_calls") or message.get("function_call")
            return LastTurn("\n".join(asked), text_of(message), bool(calls))
    return None


_NOT_ASKED = ("system", "developer", "assistant")


def _look(turn: LastTurn) -> _Seen:
    answer = turn.answer.strip()
    inner = without_fence(answer)
    value = _json_of(inner)
    num_words = len(answer.split())
    prompt = turn.prompt[:_MAX_COMPARED_CHARS]
    is_text = value is None and not turn.has_calls
    return _Seen(
        has_calls=turn.has_calls,
        is_fenced=inner is not answer,
        is_json=value is not None,
        fields=_kinds(value) if isinstance(value, dict) else {},
        label=answer if len(answer) <= _MAX_LABEL_CHARS else None,
        num_words=num_words,
        is_number=_is_number(inner),
        is_extracted=bool(answer) and answer.casefold() in turn.prompt.casefold(),
        is_code=is_text and (inner is not answer or _is_python(inner)),
        is_rewritten=is_text and num_words > 2 and _is_rewritten(prompt, answer),
    )


def _json_of(text: str) -> Any:
    """An object or a list, else None."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _is_number(text: str) -> bool:
    is_short = 0 < len(text) <= _MAX_NUMBER_CHARS
    return is_short and any(c.isdigit() for c in text) and bool(_NUMBER.fullmatch(text))


def _kinds(value: Mapping[str, Any]) -> dict[str, tuple[FieldKind, str]]:
    kinds: dict[str, tuple[FieldKind, str]] = {}
    for key in list(value)[:MAX_FIELDS]:
        of = value[key]
        kind: FieldKind = "text"
        if isinstance(of, list):
            kind = "list"
        elif isinstance(of, int | float) and not isinstance(of, bool):
            kind = "number"
        kinds[key] = (kind, json.dumps(of, ensure_ascii=False)[:_MAX_LABEL_CHARS])
    return kinds


def _is_python(text: str) -> bool:
    """Whether it is a program. Words alone are one to Python, but to nobody else."""
    if not ("\n" in text or "(" in text or "=" in text) or len(text) > _MAX_COMPARED_CHARS:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return any(
        not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body
    )


def _is_rewritten(prompt: str, answer: str) -> bool:
    """Whether the answer is what was asked about in other words, or in another language."""
    answer = answer[:_MAX_COMPARED_CHARS]
    similarity = LCSseq.normalized_similarity(prompt.split(), answer.split())
    if similarity >= 0.6:
        return True
    languages = language_of(prompt), language_of(answer)
    return None not in languages and languages[0] != languages[1]


def _type_of(rows: Sequence[_Seen]) -> tuple[TaskType, float]:
    """The first that fits, and how many of the rows are of it."""
    if not rows:
        return "chat", 0.0
    labels = _labels(rows)
    repeated = sum(count for count in labels.values() if count > 1) / len(rows)
    is_closed = all(r.label is not None for r in rows) and len(labels) <= min(50, len(rows) / 5)
    median_words = statistics.median(row.num_words for row in rows)
    rules: tuple[tuple[TaskType, float, float, bool], ...] = (
        ("tools", _share(row.has_calls for row in rows), 0.9, True),
        ("json", _share(row.is_json for row in rows), 0.95, True),
        ("class", repeated, 0.9, is_closed and median_words <= 5),
        ("number", _share(row.is_number for row in rows), 0.95, True),
        ("extract", _share(row.is_extracted for row in rows), 0.7, median_words <= 12),
        ("code", _share(row.is_code for row in rows), 0.8, True),
        ("rewrite", _share(row.is_rewritten for row in rows), 0.6, True),
    )
    for name, share, least, may_be in rules:
        if may_be and share >= least:
            return name, share
    return "chat", 1.0


def _labels(rows: Sequence[_Seen]) -> Counter[str]:
    return Counter(row.label for row in rows if row.label)


def _fields(rows: Sequence[_Seen]) -> dict[str, JsonField]:
    """In the order in which they first come. What a key holds is what most of the rows have there."""
    values: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[FieldKind]] = {}
    for row in rows:
        for key, (kind, value) in row.fields.items():
            if key in values or len(values) < MAX_FIELDS:
                values.setdefault(key, Counter())[value] += 1
                kinds.setdefault(key, Counter())[kind] += 1
    return {key: _field(kinds[key], values[key], len(rows)) for key in values}


def _field(kinds: Counter[FieldKind], values: Counter[str], num_rows: int) -> JsonField:
    ((kind, _),) = kinds.most_common(1)
    if kind == "text" and len(values) <= max(20, num_rows / 5) and len(values) < values.total():
        return JsonField("closed", tuple(value for value, _ in values.most_common()))
    return JsonField(kind, ())


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found) if found else 0.0
