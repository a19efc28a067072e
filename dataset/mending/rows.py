"""What mends one row, by the code of what was found in it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ftfy

from dataset.formats.row_format import Row
from dataset.lint.texts import personal, rules
from dataset.lint.turns import is_placeholder
from foundation import encodings
from foundation.jsonl import BadLine, read_line

DROPPED = frozenset({"E110", "W112", "W201", "W202", "W205", "W206", "W303", "W304", "W513"})
"""Codes whose rows are left out."""

ChangeText = Callable[[str, str], str]
"""From whose text it is, and the text, to another text."""

# ftfy means well with quotes, ligatures and entities; nobody asked for that.
_DECODING = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
)
_TRAILING_COMMA = re.compile(r",\s*(?=[}\]])")


def changed(row: Row, codes: frozenset[str], systems: Mapping[str, str], specials: re.Pattern[str]) -> Row:  # fmt: skip
    """The row without what was found under `codes`, which it may have been only in part."""
    for code, change in _text_changes(specials).items():
        if code in codes:
            row = _with_texts(row, change)
    if isinstance(row.get("messages"), list):
        messages = row["messages"]
        for code, mend in _CONVERSATIONS.items():
            if code in codes:
                messages = mend(messages)
        if systems:
            messages = [_with_system(message, systems) for message in messages]
        row = {**row, "messages": messages}
    return row


def repaired(line: bytes, number: int) -> Row | None:
    """The line with its commas and quotes set right, if it is a row then."""
    text = line.removeprefix(encodings.UTF_8_MARK).decode("utf-8", "replace").strip().rstrip(",;")
    for attempt in (text, _TRAILING_COMMA.sub("", text), _of_python(text)):
        try:
            row = read_line(attempt.encode(), number)
        except BadLine:
            continue
        if row is not None:
            return row
    return None


def _of_python(text: str) -> str:
    """A dictionary as Python writes it, with single quotes, as JSON."""
    try:
        return json.dumps(ast.literal_eval(text[: 1 << 20]))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return ""


def _text_changes(specials: re.Pattern[str]) -> dict[str, ChangeText]:
    return {
        "W403": lambda _, text: ftfy.fix_text(text, _DECODING),
        "W402": lambda _, text: rules.CARRIAGE_RETURNS.sub("\n", text),
        "W404": lambda _, text: rules.CONTROLS.sub("", text),
        "E301": lambda _, text: specials.sub("", text),
        "W302": lambda _, text: rules.TEMPLATE_MARKS.sub("", text).strip(),
        "W601": lambda _, text: personal.replaced(text, personal.SECRETS),
        "W602": lambda _, text: personal.replaced(text, personal.PERSONAL),
        "W401": _stripped,
    }


def _stripped(role: str, text: str) -> str:
    if role == "completion":
        # A line break at its end may be the sign at which it stops.
        return text.rstrip(" \t\u00a0")
    return text.rstrip() if role == "assistant" else text


def _with_texts(row: Row, change: ChangeText) -> Row:
    new = dict(row)
    for key in ("prompt", "completion", "text", "label"):
        if isinstance(row.get(key), str):
            new[key] = change(key, row[key])
    if isinstance(row.get("input"), dict):
        new["input"] = _with_texts(row["input"], change)
    for key in ("messages", "preferred_output", "non_preferred_output"):
        if isinstance(row.get(key), list):
            new[key] = [_with_content(message, change) for message in row[key]]
    return new


def _with_content(message: Any, change: ChangeText) -> Any:
    content = message.get("content")
    change_text = partial(change, message["role"])
    if isinstance(content, str):
        return {**message, "content": change_text(content)}
    if isinstance(content, list):
        return {**message, "content": [{**p, "text": change_text(p["text"])} for p in content]}
    return message


Messages = list[dict[str, Any]]


def _without_last(messages: Messages) -> Messages:
    """Without what the user says behind the last answer."""
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return messages[: last + 1]


def _swapped(messages: Messages) -> Messages:
    other = {"user": "assistant", "assistant": "user"}
    return [{**m, "role": other.get(m["role"], m["role"])} for m in messages]


def _system_first(messages: Messages) -> Messages:
    return sorted(messages, key=lambda m: m["role"] not in ("system", "developer"))


def _merged(messages: Messages) -> Messages:
    merged: Messages = []
    for message in messages:
        before = merged[-1] if merged else None
        if before is not None and _can_merge(before, message):
            merged[-1] = {**before, "content": f"{before['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _can_merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Plain texts of one role, and learnt alike."""
    are_plain = all(m.keys() <= {"role", "content", "weight"} for m in (one, other))
    are_texts = all(isinstance(m.get("content"), str) for m in (one, other))
    is_same = one["role"] == other["role"] in ("user", "assistant")
    return are_plain and are_texts and is_same and one.get("weight") == other.get("weight")


def _unlearnt(messages: Messages) -> Messages:
    return [{**m, "weight": 0} if m["role"] == "assistant" else m for m in messages]


def _without_placeholders(messages: Messages) -> Messages:
    last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return [
        {**m, "weight": 0}
        if i < last and m["role"] == "assistant" and is_placeholder(str(m.get("content") or ""))
        else m
        for i, m in enumerate(messages)
    ]


_CONVERSATIONS: dict[str, Callable[[Messages], Messages]] = {
    "W123": _swapped,
    "W122": _system_first,
    "W121": _merged,
    "W111": _without_last,
    "W515": _without_placeholders,
    "W514": _unlearnt,
}


def _with_system(message: dict[str, Any], systems: Mapping[str, str]) -> dict[str, Any]:
    content = message.get("content")
    if (
        message["role"] in ("system", "developer")
        and isinstance(content, str)
        and content in systems
    ):
        return {**message, "content": systems[content]}
    return message
