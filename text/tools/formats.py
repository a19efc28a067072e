"""In which form a base writes calls, found by looking at how its chat template shows one.

| form | who has it |
|---|---|
| `json_calls`, between tags | Hermes, Qwen, our own |
| `json_calls`, in a list behind a word | Mistral's older models |
| `json_calls`, bare | Llama 3 |
| `named_calls` | Mistral's newer models, DeepSeek, and others |
| `python_calls` | some of Llama's |
| `tagged_calls` | Qwen since 3.5, GLM, Nemotron |
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from text.template_probes import CALL_ID, KEY, NAME, OTHER_KEY, OTHER_NAME, VALUE

from .deltas import Calls
from .json_calls import ARGUMENTS, JsonCalls
from .named_calls import NamedCalls
from .python_calls import PythonCalls
from .source import Reading, Source
from .tagged_calls import TaggedCalls
from .writing import Writing

PYTHON_TAG = "<|python_tag|>"
"""What Llama puts before some of its calls, and its template before none."""

_ARGUMENTS = {KEY: VALUE}
# The arguments, as JSON or as Python, with what belongs to them.
_WRITTEN = re.compile(rf"""\{{\s*"{KEY}":\s*"{VALUE}"\s*\}}|\({KEY}=(["']){VALUE}\1\)""")
_AS_PYTHON = re.compile(rf"""\[?{NAME}\({KEY}=(["']){VALUE}\1\)\]?""")


class ToolFormat(Protocol):
    """How calls are written, and so read."""

    @property
    def openings(self) -> tuple[str, ...]:
        """What stands before a call; where it does not, the text is content."""

    @property
    def bare_start(self) -> str:
        """How a call may begin that a whole reply consists of, without an opening; empty where none may."""

    @property
    def markup(self) -> tuple[str, ...]:
        """All words around calls: special tokens in them are told to the reader."""

    @property
    def writing(self) -> Writing:
        """As the base's template writes calls."""

    @property
    def rules(self) -> tuple[str, ...]:
        """Lark: what the rules of arguments are made of."""

    def arguments_rule(self, schema: Mapping[str, Any]) -> str:
        """Lark: arguments that fit."""

    def read(self, source: Source, calls: Calls) -> Reading[bool]:
        """Tells `calls` what comes behind an opening. False where that is no call, and `source` has kept it."""


def format_of(one: str, two: str, pair: str, special_tokens: Collection[str]) -> ToolFormat | None:
    """The form of a turn that calls NAME, of one that calls NAME and then OTHER_NAME, empty if none can, and of one
    that calls NAME with two arguments.

    None if it is none that can be read.
    """
    one, two, pair = (turn.rpartition("</think>")[2] for turn in (one, two, pair))
    form = _json_form(one, special_tokens) or _python_form(one) or _named_form(one, two)
    return replace(form, writing=_writing(one, two)) if form else _tagged_form(one, two, pair)


def _json_form(text: str, special_tokens: Collection[str]) -> JsonCalls | None:
    for start, end, value in _values(text):
        call = value[0] if isinstance(value, list) and value else value
        if not isinstance(call, dict):
            continue
        call = call["function"] if isinstance(call.get("function"), dict) else call
        key = next((k for k in ARGUMENTS if call.get(k) == _ARGUMENTS), None)
        if call.get("name") != NAME or key is None:
            continue
        opening, closing = text[:start].strip(), text[end:].strip()
        openings = (opening,) if opening else ()
        if not opening and PYTHON_TAG in special_tokens:
            openings = (PYTHON_TAG,)
        return JsonCalls(
            openings,
            closing,
            is_bare=not opening,
            arguments_key=key,
            is_list=isinstance(value, list),
        )
    return None


def _python_form(text: str) -> PythonCalls | None:
    found = _AS_PYTHON.search(text)
    if found is None:
        return None
    opening, closing = text[: found.start()].strip(), text[found.end() :].strip()
    return PythonCalls((opening,) if opening else (), closing)


def _named_form(one: str, two: str) -> NamedCalls | None:
    opening, found, rest = one.partition(NAME)
    arguments = next((v for v in _values(rest) if v[2] == _ARGUMENTS), None)
    if not (found and opening.strip()) or arguments is None:
        return None
    start, end, _ = arguments
    between = tuple(word.strip() for word in rest[:start].split(CALL_ID))
    again = _writing(one, two).again.strip()
    return NamedCalls((opening.strip(),), between, again=again, closing=rest[end:].strip())


def _tagged_form(one: str, two: str, pair: str) -> TaggedCalls | None:
    opening, _, rest = one.partition(NAME)
    before_key, _, rest = rest.partition(KEY)
    value_begin, has_value, behind = rest.partition(VALUE)
    between, has_other, _ = pair.partition(VALUE)[2].partition(OTHER_KEY)
    head, has_tag, tag = before_key.rpartition("<")
    key_opening = has_tag + tag
    value_end = between.removesuffix(key_opening)
    closing = value_end.strip()
    is_known = opening.strip() and has_value and has_other and has_tag and closing
    if not is_known or value_end == between or not behind.startswith(value_end):
        return None
    again, has_two, _ = two.partition(VALUE)[2].partition(OTHER_NAME)
    again = again.removeprefix(value_end) if has_two else ""
    behind = behind.removeprefix(value_end).rstrip()
    return TaggedCalls(
        (opening.strip(),),
        head.strip(),
        key_opening,
        value_begin.strip(),
        closing,
        again=again.strip(),
        closing=behind,
        value_begin=value_begin,
        value_end=value_end,
        writing=Writing(opening.lstrip(), head, again, behind),
    )


def _writing(one: str, two: str) -> Writing:
    before, _, rest = one.partition(NAME)
    written = _WRITTEN.search(rest)
    again = two.partition(NAME)[2].partition(OTHER_NAME)
    found = _WRITTEN.search(again[0]) if again[1] else None
    return Writing(
        before.lstrip(),
        rest[: written.start()] if written else "",
        again[0][found.end() :] if found else "",
        rest[written.end() :].rstrip() if written else "",
    )


def _values(text: str) -> Iterator[tuple[int, int, Any]]:
    """Objects and lists of JSON in the text: where they start and end, and what they are."""
    for found in re.finditer(r"[\[{]", text):
        try:
            value, end = json.JSONDecoder().raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        yield found.start(), end, value
