"""How the base is asked: as the rows ask, with an instruction that says all that the task is, and with worked examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dataset.task_type import DetectedTask

from .asking import CHAT_PATH, TEXT_PATH, ReportQuestion
from .cases import Case

MAX_LABELS_NAMED = 50
MAX_VALUES_NAMED = 20
MAX_EXAMPLE_CHARS = 600
MAX_OUTPUT_TOKENS = 1024
"""Of an answer, however long those of the rows are."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """When an answer is over, for all models alike."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    """Spares the base what it likes to add behind the answer, where no answer has it inside."""

    @classmethod
    def of(cls, training: Sequence[Case], holdout: Sequence[Case]) -> Ending:
        """From the answers that were learnt; from those that are wanted only where there are none."""
        texts = [case.wanted.text for case in training] or [case.wanted.text for case in holdout]
        longest = max((len(text.encode()) for text in texts), default=0)
        calls = any(case.wanted.tool_calls for case in training)
        stop = () if calls or any("\n\n" in text for text in texts) else ("\n\n",)
        return cls(min(MAX_OUTPUT_TOKENS, 24 + longest // 2 + (128 if calls else 0)), stop)


@dataclass(frozen=True)
class Wording:
    """`shots` are said before each question; what is near it (`Grounding`) comes behind them."""

    instruction: str | None = None
    """In the place of the rows' own; None leaves that."""
    shots: tuple[Case, ...] = ()

    def question(
        self, key: str, model: str, case: Case, ending: Ending, near: Sequence[Case] = ()
    ) -> ReportQuestion:
        body: Json = {"model": model, "temperature": 0, "max_tokens": ending.max_tokens}
        if ending.stop:
            body["stop"] = list(ending.stop)
        shots = [*self.shots, *near]
        if not case.is_chat:
            return ReportQuestion(key, TEXT_PATH, body | {"prompt": self.text(case, shots)})
        body["messages"] = self.messages(case, shots)
        if case.tools:
            body["tools"] = list(case.tools)
        return ReportQuestion(key, CHAT_PATH, body)

    def messages(self, case: Case, shots: Sequence[Case]) -> list[Json]:
        """Of a chat whose next turn is the answer."""
        own = [m for m in case.messages if m["role"] in ("system", "developer")]
        rest = [m for m in case.messages if m["role"] not in ("system", "developer")]
        if self.instruction is not None:
            own = [{"role": "system", "content": self.instruction}]
        return [*own, *(message for shot in shots for message in _as_turns(shot)), *rest]

    def text(self, case: Case, shots: Sequence[Case]) -> str:
        """Behind which the answer is written."""
        parts = [f"{shot.prompt}{shot.wanted.text}" for shot in shots]
        if self.instruction is not None:
            parts.insert(0, self.instruction)
        return "\n\n".join([*parts, case.prompt])


def _as_turns(shot: Case) -> list[Json]:
    """What was asked last, and its answer."""
    asked = next((m for m in reversed(shot.messages) if m["role"] == "user"), None)
    if asked is None:
        return []
    return [asked, {"role": "assistant", "content": shot.wanted.text}]


def system_prompt(training: Sequence[Case]) -> str:
    """The rows' own instruction, if the first has any."""
    if not training:
        return ""
    system = (m for m in training[0].messages if m["role"] in ("system", "developer"))
    return "\n".join(str(m.get("content") or "") for m in system)


def full_instruction(task: DetectedTask, training: Sequence[Case]) -> str:
    """All that the rows show of the task, in words that a model can go by without ever having seen a row."""
    texts = [case.wanted.text for case in training if case.wanted.text.strip()]
    example = min(texts, key=len, default="")[:MAX_EXAMPLE_CHARS]
    own = system_prompt(training)
    return "\n".join(filter(None, [own, *_TELLS[task.type](task), _shown(example)]))


def _of_json(task: DetectedTask) -> list[str]:
    fields = []
    for name, known in task.fields.items():
        key = orjson.dumps(name).decode()
        if known.kind == "closed" and len(known.values) <= MAX_VALUES_NAMED:
            fields.append(f"{key}: {_either(known.values)}")
        else:
            fields.append(f"{key}: {_KINDS[known.kind]}")
    told = ["Answer with JSON and nothing else, in one line."]
    return [*told, f"Fill in this JSON: {{{', '.join(fields)}}}"] if fields else told


_KINDS = {"closed": "a value", "number": "a number", "list": "a list", "text": "text"}


def _of_class(task: DetectedTask) -> list[str]:
    labels = list(task.labels)[:MAX_LABELS_NAMED]
    return [f"Answer with one of these and nothing else: {', '.join(labels)}."]


def _of_tools(_: DetectedTask) -> list[str]:
    return ["Answer by calling the tool that fits, with arguments that say what was asked for."]


_TELLS: dict[str, Callable[[DetectedTask], list[str]]] = {
    "json": _of_json,
    "class": _of_class,
    "tools": _of_tools,
    "number": lambda _: ["Answer with a number and nothing else."],
    "extract": lambda _: [
        "Answer with the words of the text that say what was asked, and with nothing else."
    ],
    "code": lambda _: ["Answer with code and nothing else."],
    "rewrite": lambda _: ["Answer with the rewritten text and nothing else."],
    "chat": lambda _: [],
}


def _shown(example: str) -> str:
    return f"For example: {example}" if example else ""


def _either(values: Sequence[str]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last
