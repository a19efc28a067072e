"""The rows of a file as what may be asked of a model and what it ought to answer: each of a row's answers is a case."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dataset.task_type import text_of
from grading.measures.measure import ModelAnswer

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    line: int
    """Of its file, from 1."""
    turn: int
    """Which of the row's messages is wanted: the ones before it are as the row has them. 0 without messages."""
    wanted: ModelAnswer
    messages: tuple[Json, ...] = ()
    """What is asked, in chats."""
    prompt: str = ""
    """What is asked, in completions."""
    tools: tuple[Json, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.line}.{self.turn}"

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)

    @property
    def query(self) -> str:
        """What is asked, in words: other cases are near by these."""
        if not self.messages:
            return self.prompt
        said = [text_of(m) for m in self.messages if m["role"] not in ("system", "developer")]
        return "\n".join(filter(None, said[-3:]))

    @property
    def question(self) -> str:
        """All that is asked, but for instructions: who has learnt an answer to it has been told."""
        said = [
            f"{m['role']}: {text_of(m)}"
            for m in self.messages
            if m["role"] not in ("system", "developer")
        ]
        return " ".join("\n".join([*said, self.prompt]).casefold().split())

    @property
    def cluster(self) -> str:
        """Cases of one beginning are no more independent than turns of one conversation are."""
        asked = next((text_of(m) for m in self.messages if m["role"] == "user"), self.prompt)
        return hashlib.sha256(" ".join(asked.casefold().split()).encode()).hexdigest()[:16]

    @property
    def rank(self) -> int:
        """By which rows are chosen where there are too many: a hash of what they ask, whatever their places."""
        return int.from_bytes(hashlib.sha256(self.question.encode()).digest()[:8], "big")


def of_row(row: Mapping[str, Any], line: int) -> Iterator[Case]:
    """Of a row that training took; nothing of a form that is not answered in words."""
    if "messages" in row:
        yield from _of_chat(row, line)
    elif "completion" in row:
        yield Case(line, 0, ModelAnswer(row["completion"]), prompt=row["prompt"])


def _of_chat(row: Mapping[str, Any], line: int) -> Iterator[Case]:
    messages: Sequence[Json] = row["messages"]
    functions = [{"type": "function", "function": f} for f in row.get("functions") or ()]
    tools = (*(row.get("tools") or ()), *functions)
    for turn, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0 or turn == 0:
            continue
        before = tuple({k: v for k, v in m.items() if k != "weight"} for m in messages[:turn])
        yield Case(line, turn, reply_of(message), messages=before, tools=tools)


def reply_of(message: Mapping[str, Any]) -> ModelAnswer:
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"type": "function", "function": message["function_call"]})
    return ModelAnswer(text_of(message), tuple(calls))
