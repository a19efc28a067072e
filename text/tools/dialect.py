"""What a base's chat template knows of tools and thoughts, and how messages are written for it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from text import template_probes
from text.messages import InvalidMessages, Message, with_arguments_as_text
from text.rendering import Renderer, Tools

from . import own_form
from .formats import ToolFormat, format_of
from .grammar import ReplyGrammar
from .own_form import OwnForm
from .reply import Reasoning, ReplyReader

_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_ID_CHARS = 9
"""Of a call's id, where a template wants it so short."""


class Dialect:
    """Found by rendering small conversations, when it is first asked for. Safe to share between threads."""

    def __init__(
        self,
        renderer: Renderer,
        source: str,
        *,
        special_tokens: Mapping[str, int],
        stop_ids: Collection[int],
    ) -> None:
        self._renderer = renderer
        self._source = source
        self._special_tokens = special_tokens
        self._stop_ids = frozenset(stop_ids)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template itself shows the tools on offer."""
        return template_probes.shows_tools(self._renderer.text)

    @cached_property
    def form_of_arguments(self) -> template_probes.FormOfArguments | None:
        """As what the template wants the arguments of calls; None if it does not show any."""
        return template_probes.form_of_calls(self._renderer.text)

    @cached_property
    def own_form(self) -> OwnForm | None:
        """How tools are written where the template does not show both them and calls in a form that can be read."""
        if self._form_of_template is not None:
            return None
        render = self._renderer.text
        return OwnForm(
            has_system=template_probes.renders_role(render, "system"),
            has_results=template_probes.renders_role(render, "tool"),
        )

    @property
    def tool_format(self) -> ToolFormat:
        return self._form_of_template or own_form.FORMAT

    @cached_property
    def _form_of_template(self) -> ToolFormat | None:
        if not self.shows_tools or self.form_of_arguments is None:
            return None
        turns = [
            template_probes.calling(1),
            template_probes.calling(2),
            template_probes.CALLING_WITH_TWO,
        ]
        one, two, pair = map(self._turn, turns)
        return format_of(one, two, pair, self._special_tokens)

    @cached_property
    def reasoning(self) -> Reasoning | None:
        """How the base thinks before it answers, if it does."""
        shown = template_probes.reasoning_text(self._renderer.text)
        prompt = self._renderer.generation_prompt.rstrip()
        for opening, closing in _THOUGHTS:
            if prompt.endswith(closing):
                # It has thought already.
                return None
            is_begun = prompt.endswith(opening)
            if is_begun or closing in self._source or closing in shown:
                return Reasoning(opening, closing, is_begun)
        return None

    def reader(
        self, offered: Mapping[str, Any], *, is_parallel: bool = True, shows_thoughts: bool = True
    ) -> ReplyReader:
        """Of one reply; `offered` are the names of tools with the schemas of their parameters."""
        return ReplyReader(
            self.tool_format,
            offered,
            is_parallel=is_parallel,
            reasoning=self.reasoning if shows_thoughts else None,
        )

    def read_ids(self, *, with_calls: bool) -> frozenset[int]:
        """The special tokens that a reader must see."""
        words = (
            *(self.tool_format.markup if with_calls else ()),
            *(self.reasoning.markup if self.reasoning else ()),
        )
        ids = {i for token, i in self._special_tokens.items() if any(token in w for w in words)}
        return frozenset(ids - self._stop_ids)

    @cached_property
    def reply_grammar(self) -> ReplyGrammar:
        return ReplyGrammar(self.tool_format, self._special_tokens, self.reasoning)

    def written(self, messages: list[Message], tools: Tools) -> tuple[list[Message], Tools]:
        """Normal messages and tools as the template takes them."""
        if self.own_form is not None:
            return self.own_form.written(messages, tools), None
        return [self._as_wanted(message) for message in messages], tools

    def _as_wanted(self, message: Message) -> Message:
        if self.form_of_arguments == "text":
            message = with_arguments_as_text(message)
        return message if self._accepts_any_id else _with_short_ids(message)

    @cached_property
    def _accepts_any_id(self) -> bool:
        """Some templates refuse ids that are longer than those of their own API."""
        return template_probes.accepts_id(self._renderer.text, "call_qz1234567qz1234567")

    def _turn(self, message: Message) -> str:
        """What the template writes as a turn, without what begins and ends every turn; empty if it refuses it."""
        tools = [template_probes.TOOL, template_probes.OTHER_TOOL]
        try:
            text, other = (
                self._renderer.text([template_probes.USER, one], tools)
                for one in (self._as_wanted(message), template_probes.SAYING)
            )
        except InvalidMessages:
            return ""
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
        turn = text[sum(1 for _ in same) :]
        ends = (turn.find(t) for t, i in self._special_tokens.items() if i in self._stop_ids)
        return turn[: min((end for end in ends if end >= 0), default=len(turn))]


def definitions(tools: Sequence[Any] | None) -> Tools:
    """Tools in one form, whatever else clients say of them: what a row teaches is what a request shows."""
    if not tools:
        return None
    return [{"type": "function", "function": _definition(tool["function"])} for tool in tools]


def _definition(function: Mapping[str, Any]) -> dict[str, Any]:
    description = function.get("description")
    return {
        "name": function["name"],
        **({"description": description} if description else {}),
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
    }


def _with_short_ids(message: Message) -> Message:
    short = dict(message)
    if isinstance(message.get("tool_call_id"), str):
        short["tool_call_id"] = _short(message["tool_call_id"])
    if "tool_calls" in message:
        short["tool_calls"] = [
            {**call, "id": _short(str(call.get("id") or ""))} for call in message["tool_calls"]
        ]
    return short


def _short(call_id: str) -> str:
    if len(call_id) == _ID_CHARS and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:_ID_CHARS]
