"""Grammars for replies that must call a tool, or may do so only with arguments that fit: llguidance's dialect of Lark.

Calls are held to what the base's template writes, to the letter, for that is what its models have learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from text.template_probes import CALL_ID

from .formats import ToolFormat
from .writing import lark_text

if TYPE_CHECKING:
    from .reply import Reasoning

NO_ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}

_ID = "/[a-zA-Z0-9_-]{1,40}/"
_HEAD = r"""TEXT: /(.|\n)*/
SPACES: /\s*/
"""
# A reply that is text and begins like this would be taken for a call.
_OTHER_TEXT = r'OTHER_TEXT: TEXT & ~/\s*\{\s*"(name|parameters|arguments|function|type|id)"(.|\n)*/'
_OTHER_LIST = r"OTHER_TEXT: TEXT & ~/\s*\[(.|\n)*/"


@dataclass(frozen=True)
class CallableFunction:
    name: str
    schema: Mapping[str, Any]
    """What its arguments are held to."""


class ReplyGrammar:
    """Of one base's replies."""

    def __init__(
        self,
        tool_format: ToolFormat,
        special_tokens: Mapping[str, int],
        reasoning: Reasoning | None,
    ) -> None:
        self._format = tool_format
        self._special_tokens = special_tokens
        self._reasoning = reasoning
        words = sorted(special_tokens, key=len, reverse=True)
        self._parts = re.compile("|".join(map(re.escape, [*words, CALL_ID])))

    def of(
        self,
        functions: Sequence[CallableFunction],
        *,
        must_call: bool,
        is_parallel: bool,
        content: str | None = None,
    ) -> str:
        """What a reply may look like that calls the functions, or does not.

        `content` is an expression of Lark that a reply without calls is held to; any text is good without it.
        """
        rules = []
        if functions:
            rules = self._call_rules(functions, is_parallel=is_parallel)
        if must_call:
            rules.append("reply: calls")
        elif content is not None:
            rules += [f"reply: {'calls | ' if functions else ''}content", f"content: {content}"]
        else:
            rules += self._text_or_calls(is_parallel=is_parallel)
        return "\n".join([*self._start(), *rules, _HEAD])

    def _call_rules(self, functions: Sequence[CallableFunction], *, is_parallel: bool) -> list[str]:
        writing = self._format.writing
        between = self._literal(writing.between)
        rules = [
            f"f_{number}: {lark_text(function.name)} {between} {self._format.arguments_rule(function.schema)}"
            for number, function in enumerate(functions)
        ]
        rules.append(f"function: {' | '.join(f'f_{i}' for i in range(len(functions)))}")
        again = self._literal(writing.again)
        more = f" ({again} function)*" if is_parallel and again else ""
        return [
            *self._format.rules,
            *rules,
            f"calls: {self._literal(writing.before)} rest",
            f"rest: function{more} {self._literal(writing.behind)}",
        ]

    def _start(self) -> list[str]:
        """Thoughts come first, whatever is said then."""
        if self._reasoning is None:
            return ["start: reply"]
        closing = self._up_to(self._reasoning.closing, "thought")
        thinking = ["start: thinking reply", *closing, "thinking: thought SPACES"]
        if self._reasoning.is_begun:
            return thinking
        opening = self._literal(self._reasoning.opening)
        return ["start: thinking? reply", *closing, f"thinking: {opening} thought SPACES"]

    def _text_or_calls(self, *, is_parallel: bool) -> list[str]:
        """Text in which a call, once it is opened, is one; nothing comes behind a call that must be alone."""
        tool_format, before = self._format, self._format.writing.before
        text, rules = "TEXT", []
        if tool_format.bare_start:
            text = "OTHER_TEXT"
            rules.append(_OTHER_TEXT if tool_format.bare_start == "{" else _OTHER_LIST)
        choices = [text]
        if tool_format.bare_start == before[:1]:
            # Else it would be text as far as text goes.
            rules += [f"bare_head[lazy]: {lark_text(before)}", "bare: bare_head rest"]
            choices.append("bare")
        names = []
        for number, opening in enumerate(tool_format.openings):
            name = f"opened_{number}"
            rules += self._up_to(opening, f"{name}_head", text)
            behind = self._literal(before.removeprefix(opening))
            rules.append(f"{name}: {name}_head {behind} rest")
            names.append(name)
        if names:
            opened = " | ".join(names)
            choices.append(f"({opened})+ TEXT" if is_parallel else opened)
        return [*rules, f"reply: {' | '.join(choices)}"]

    def _up_to(self, word: str, name: str, text: str = "TEXT") -> list[str]:
        """A rule for any text as far as the first time that it has the word."""
        if word in self._special_tokens:
            return [f"{name}: {text} {self._literal(word)}"]
        return [f"{name}[lazy]: {text} {lark_text(word)}"]

    def _literal(self, text: str) -> str:
        """The text, its special tokens as such, any id of a call in the place of the one that was asked with."""
        parts = []
        end = 0
        for found in self._parts.finditer(text):
            parts.append(lark_text(text[end : found.start()]))
            token = self._special_tokens.get(found[0])
            parts.append(_ID if token is None else f"<[{token}]>")
            end = found.end()
        return " ".join(filter(None, [*parts, lark_text(text[end:])]))
