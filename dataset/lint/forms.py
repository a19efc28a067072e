"""Rows of any form as a conversation: who says what, and where in the row it stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataset.formats import chat, completion, labelled, preference, raw_text
from dataset.formats.row_format import Row, RowFormat
from dataset.task_type import text_of

METHODS = ("supervised", "unsupervised", "dpo", "classification")


@dataclass(slots=True)
class Said:
    """What one row says."""

    roles: tuple[str, ...]
    texts: list[str]
    paths: Sequence[str]
    unlearnt: tuple[int, ...] = ()
    """Of the assistant's messages."""
    calls: tuple[int, ...] = ()
    """Messages of the assistant that call a tool, and may say nothing."""
    call_text: str = ""
    """Names and arguments of all calls."""
    others: tuple[tuple[str, str], ...] = ()
    """Paths and texts that are no part of the conversation: the answer that is worse."""


class _ChatPaths(Sequence[str]):
    """messages[0].content and so on, made when they are told."""

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: Any) -> Any:
        return f"messages[{index}].content"


CHAT_PATHS = _ChatPaths()
FLAT: dict[tuple[str, ...], tuple[str, ...]] = {
    ("prompt", "completion"): ("user", "assistant"),
    ("text", "label"): ("user", "assistant"),
    ("text",): ("assistant",),
}
"""Rows that are nothing but texts: their keys, and whose texts these are."""


def method_of(first_row: Row) -> str:
    """The method that learns from such rows, if no other was named."""
    if preference.claims(first_row):
        return "dpo"
    if "text" in first_row and not first_row.keys() & {"messages", "prompt", "completion"}:
        return "classification" if "label" in first_row else "unsupervised"
    return "supervised"


def other_form(row: Row, own: RowFormat) -> str | None:
    """The form that the row has instead of its file's."""
    if own.claims(row):
        return None
    forms: dict[str, RowFormat] = {
        "chat": chat,
        "preference": preference,
        "prompt and completion": completion,
        "label": labelled.LabelledRows("text"),
        "raw text": raw_text,
    }
    return next((name for name, form in forms.items() if form.claims(row)), None)


def said_in(row: Row) -> Said:
    """Of a row without a problem."""
    if "messages" in row:
        return _conversation(row["messages"], "messages")
    for keys, roles in FLAT.items():
        if row.keys() == set(keys):
            return Said(roles, [row[key] for key in keys], keys)
    better = "preferred_output" if "preferred_output" in row else "preferred_completion"
    asked = _conversation(row["input"]["messages"], "input.messages")
    answered = _conversation(row[better], better)
    first = len(asked.roles)
    worse = row.get("non_preferred_output") or row.get("non_preferred_completion") or ()
    return Said(
        roles=asked.roles + answered.roles,
        texts=asked.texts + answered.texts,
        paths=[*asked.paths, *answered.paths],
        unlearnt=tuple(i for i, role in enumerate(asked.roles) if role == "assistant"),
        calls=(*asked.calls, *(first + i for i in answered.calls)),
        call_text=asked.call_text + answered.call_text,
        others=tuple(
            (f"non_preferred_output[{i}].content", text_of(m)) for i, m in enumerate(worse)
        ),
    )


def _conversation(messages: Sequence[Any], name: str) -> Said:
    return Said(
        roles=tuple(message["role"] for message in messages),
        texts=[text_of(message) for message in messages],
        paths=[f"{name}[{i}].content" for i in range(len(messages))],
        unlearnt=tuple(i for i, message in enumerate(messages) if message.get("weight") == 0),
        calls=tuple(
            i for i, m in enumerate(messages) if m.get("tool_calls") or m.get("function_call")
        ),
        call_text="\n".join(text for message in messages for text in _called(message)),
    )


def _called(message: Mapping[str, Any]) -> Iterator[str]:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    for function in (*calls, *([message["function_call"]] if message.get("function_call") else ())):
        yield f"{function['name']}({function['arguments']})"
