"""Chat templates at work: messages to text, and where in the text each assistant turn begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from .messages import ChatTemplateError, InvalidMessages, Message
from .template_probes import USER
from .turn_marks import MARK, mark_turns

Tools = list[dict[str, Any]] | None

# Templates that look ahead are rendered anew for each assistant turn, up to so much in all.
MAX_PREFIX_MESSAGES = 50_000
MAX_PREFIX_CHARS = 1 << 26


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation. `starts[i]` is where the prompt of the i-th assistant turn ends in `text`, or
    None where the template renders that prompt differently in hindsight, or it was not looked for."""

    text: str
    starts: list[int | None]
    is_searched: bool
    """Whether all of them were looked for."""

    @property
    def cuts(self) -> list[int]:
        return [start for start in self.starts if start is not None]


class Renderer:
    """A chat template without a tokenizer. Safe to share between threads."""

    def __init__(self, source: str, variables: Mapping[str, str | bool]) -> None:
        """`variables` are what templates know besides the messages, such as bos_token."""
        self._variables = dict(variables)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self._marked = mark_turns(environment, source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(f"the chat template does not parse: {error}") from error

    @property
    def is_marked(self) -> bool:
        """Whether one rendering finds all turns."""
        return self._marked is not None

    def text(
        self, messages: list[Message], tools: Tools, add_generation_prompt: bool = False
    ) -> str:
        """Raises `InvalidMessages` for what the template refuses."""
        return self._render(self._template, messages, tools, add_generation_prompt)

    def render(
        self, messages: list[Message], tools: Tools, add_generation_prompt: bool, *, mark: str
    ) -> Rendering:
        """`mark` is a character that is in none of the messages. Raises `InvalidMessages`."""
        found = self._render_marked(messages, tools, add_generation_prompt, mark)
        if found is None:
            found = self._render_prefixes(messages, tools, add_generation_prompt)
        if messages[0]["role"] == "assistant":
            found.starts[0] = self._greeting_start(
                found.text, messages, tools, add_generation_prompt, mark
            )
        return found

    def _render_marked(
        self, messages: list[Message], tools: Tools, add_generation_prompt: bool, mark: str
    ) -> Rendering | None:
        """Render once; None if the template has no marks or left its loop early."""
        if self._marked is None or not mark:
            return None
        whole = self._render(self._marked.whole, messages, tools, add_generation_prompt, mark)
        parts = whole.split(mark)
        if len(parts) != len(messages) + 2:
            return None
        ending = self._render(self._marked.ending, [], tools, True)
        text = "".join(parts)
        starts: list[int | None] = []
        position = len(parts[0])
        for message, part in zip(messages, parts[1:], strict=False):
            if message["role"] == "assistant":
                is_there = text.startswith(ending, position)
                starts.append(position + len(ending) if is_there else None)
            position += len(part)
        return Rendering(text, starts, is_searched=True)

    def _render_prefixes(
        self, messages: list[Message], tools: Tools, add_generation_prompt: bool
    ) -> Rendering:
        """Render what stands before each turn."""
        text = self.text(messages, tools, add_generation_prompt)
        starts: list[int | None] = []
        num_messages = num_chars = 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            num_messages += index
            if num_messages > MAX_PREFIX_MESSAGES or num_chars > MAX_PREFIX_CHARS:
                starts.append(None)
                continue
            prompt = self.text(messages[:index], tools, True) if index else ""
            num_chars += len(prompt)
            starts.append(len(prompt) if text.startswith(prompt) else None)
        is_searched = num_messages <= MAX_PREFIX_MESSAGES and num_chars <= MAX_PREFIX_CHARS
        return Rendering(text, starts, is_searched)

    def _greeting_start(
        self,
        text: str,
        messages: list[Message],
        tools: Tools,
        add_generation_prompt: bool,
        mark: str,
    ) -> int | None:
        """Where a conversation's first turn begins that nothing was said before.

        Its prompt is what the template puts there of its own, such as a system text, up to and with what it
        puts before every reply. It is found with a greeting that is a single strange character.
        """
        greeting = {**messages[0], "content": mark}
        strange = self.text([greeting, *messages[1:]], tools, add_generation_prompt)
        before, found, _ = strange.partition(mark)
        if not (mark and found and text.startswith(before)):
            return None
        prompt = self.generation_prompt
        position = before.rfind(prompt)
        return len(before) if position < 0 else position + len(prompt)

    @cached_property
    def generation_prompt(self) -> str:
        """What stands before a reply; empty if the template has no such thing."""
        try:
            without, with_prompt = (self.text([USER], None, add) for add in (False, True))
        except InvalidMessages:
            return ""
        return with_prompt[len(without) :] if with_prompt.startswith(without) else ""

    def _render(
        self,
        template: jinja2.Template,
        messages: list[Message],
        tools: Tools,
        add_generation_prompt: bool,
        mark: str = "",
    ) -> str:
        try:
            return template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
                **{MARK: mark},
            )
        except RecursionError as error:
            raise InvalidMessages("the messages are nested too deeply") from error
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidMessages(f"the chat template refused the messages: {error}") from error


class _GenerationBlock(jinja2.ext.Extension):
    """Lets `{% generation %}` pass: it marks assistant text for other libraries."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """The environment that templates are written for, without a clock: the same messages always give
    the same ids, so templates fall back to their built-in date."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML characters, which are none of a model's business.
    return json.dumps(value, **{"ensure_ascii": False, "indent": indent, **options})


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
