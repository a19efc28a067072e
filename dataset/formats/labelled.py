"""Rows of something and the label that it has: as chats and as completions, where the label is the last answer, and as
`{"text": ..., "label": ...}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from text.chat_template import ChatTemplate, TokenizedExample

from . import chat, completion
from .row_format import Problem, Row, extra, missing, no_text, wrong_value

Form = Literal["chat", "completion", "text"]

_KEYS = frozenset({"text", "label"})


@dataclass(frozen=True)
class LabelledRows:
    """One of the forms. The label alone is learnt, with its end; what stands before it is context."""

    form: Form

    def claims(self, first_row: Row) -> bool:
        match self.form:
            case "chat":
                return chat.claims(first_row)
            case "completion":
                return completion.claims(first_row)
            case "text":
                return bool(first_row.keys() & _KEYS)

    def problems(self, row: Row) -> Iterator[Problem]:
        match self.form:
            case "chat":
                yield from chat.problems(row)
                yield from _label_message_problems(row["messages"])
            case "completion":
                yield from completion.problems(row)
                if not row["prompt"]:
                    yield wrong_value(
                        " prompt is empty: there is nothing that could be classified", "E117"
                    )
            case "text":
                for key in sorted(_KEYS):
                    if key not in row:
                        yield missing(key)
                    elif not isinstance(row[key], str):
                        yield no_text(key, row[key])
                yield from extra(row, _KEYS)
                if not row["text"].strip():
                    yield wrong_value(
                        " text is empty: there is nothing that could be classified", "E117"
                    )
        if not self.label(row).strip():
            yield wrong_value(" has an empty label; give every class a word", "E117")

    def label(self, row: Row) -> str:
        """Of a row without a problem."""
        match self.form:
            case "chat":
                return _content(row["messages"][-1])
            case "completion":
                return str(row["completion"])
            case "text":
                return str(row["label"])

    def tokenize(self, row: Row, template: ChatTemplate) -> Sequence[TokenizedExample]:
        match self.form:
            case "chat":
                *context, last = row["messages"]
                unlearnt = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in context]
                return chat.tokenize({**row, "messages": [*unlearnt, last]}, template)
            case "completion":
                return completion.tokenize(row, template)
            case "text":
                answer = {"role": "assistant", "content": row["label"]}
                messages = [{"role": "user", "content": row["text"]}, answer]
                return [template.tokenize_chat(messages)]


FORMS = (LabelledRows("chat"), LabelledRows("completion"), LabelledRows("text"))


def _label_message_problems(messages: list[Any]) -> Iterator[Problem]:
    last, number = messages[-1], len(messages)
    if last["role"] != "assistant":
        yield wrong_value(
            f", message {number} is of the {last['role']}: the last message must be the assistant's, for "
            "it is the label",
            "E117",
        )
    if last.get("weight") == 0:
        yield wrong_value(
            f", message {number} has the weight 0, but it is the label, which is to be learnt; leave the "
            "weight out",
            "E117",
        )
    if last.get("tool_calls") or last.get("function_call"):
        yield wrong_value(
            f", message {number} calls a tool, but it is the label; write it as text", "E117"
        )


def _content(message: Row) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or message.get("refusal") or ""
