"""Chat messages to token ids: the one implementation that training and serving share.

Two promises. Text from users never becomes a special token: user strings are disguised before the
template runs, and only what is a special token *then* is one. And what training shows the model is
what serving shows it: the ids before every assistant turn of a training example equal the prompt that
serving renders for the messages before that turn, because both cut the text at the same places.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from . import template_probes
from .disguise import Disguise
from .messages import ROLES, ChatTemplateError, InvalidMessages, Message, normalise, weight_of
from .tokenizer import Position, Tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One training example: `weights[t]` is the loss weight of predicting `input_ids[t]`. Both (T,)."""

    input_ids: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class _Rendering:
    """A rendered conversation, user text still disguised. `turn_starts[i]` is where the i-th assistant
    turn begins in `text`, or None where the template renders that turn's prompt differently in hindsight."""

    text: str
    turn_starts: list[int | None]
    disguise: Disguise


class ChatTemplate:
    """A base model's chat template with its tokenizer. Safe to share between threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._variables = {"bos_token": "", "eos_token": "", **tokenizer.names}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(f"the chat template does not parse: {error}") from error

    @classmethod
    def load(cls, path: Path) -> ChatTemplate:
        """Reads template and tokenizer of the base folder `path`. Raises `ChatTemplateError`."""
        return cls(_read_source(path), Tokenizer.load(path))

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template shows the tools on offer to the model."""
        return template_probes.shows_tools(self._render_probe)

    @cached_property
    def shows_tool_calls(self) -> bool:
        """Whether the template shows the calls of earlier turns, and so can teach them."""
        return template_probes.shows_tool_calls(self._render_probe)

    @cached_property
    def _shown_roles(self) -> frozenset[str]:
        """A base whose users or assistants are not shown is refused when it is imported."""
        others = ROLES - {"user", "assistant"}
        shown = {r for r in others if template_probes.shows_role(self._render_probe, r)}
        return frozenset({"user", "assistant", *shown})

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        """The ids of a prompt, as serving feeds it to the model. Raises `InvalidMessages`."""
        rendering = self._render(self._normalise(messages, tools), tools, add_generation_prompt)
        cuts = [start for start in rendering.turn_starts if start is not None]
        pieces = self._encode(rendering, cuts)
        return [i for piece in pieces for i in piece]

    def tokenize_chat(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None
    ) -> TokenizedExample:
        """One training example: loss on each assistant turn, its end-of-turn token included.

        A message's `weight` (default 1) scales its loss; 0 leaves it as context. What follows the last
        assistant turn is cut off, for nothing is learned from it. Raises `InvalidMessages` for messages
        that the template refuses, `ChatTemplateError` for a template whose turns cannot be told apart.
        """
        normal = self._normalise(messages, tools)
        rendering = self._render(normal, tools, add_generation_prompt=False)
        turn_weights = [
            weight_of(m, f"messages[{i}]")
            for i, m in enumerate(messages)
            if m["role"] == "assistant"
        ]
        if not turn_weights:
            raise InvalidMessages("a training example needs at least one assistant message")
        starts = [start for start in rendering.turn_starts if start is not None]
        if len(starts) != len(turn_weights):
            raise ChatTemplateError(
                "the chat template rewrites earlier turns when later ones follow, so that training and "
                "serving would see different prompts; split such conversations into one example a turn"
            )
        pieces = self._encode(rendering, starts)
        input_ids, weights = list(pieces[0]), [0.0] * len(pieces[0])
        last_end = 0
        for turn_ids, weight in zip(pieces[1:], turn_weights, strict=True):
            num_supervised = self._turn_length(turn_ids)
            last_end = len(input_ids) + num_supervised
            input_ids += turn_ids
            weights += [weight] * num_supervised + [0.0] * (len(turn_ids) - num_supervised)
        return TokenizedExample(input_ids[:last_end], weights[:last_end])

    def tokenize_completion(self, prompt: str, completion: str) -> TokenizedExample:
        """One raw text example, no template: loss on `completion` and the end token behind it."""
        prompt_ids = self.tokenizer.encode_with_special(prompt)
        position: Position = "continuation" if prompt else "start"
        completion_ids = self.tokenizer.encode(completion, position=position)
        if self.tokenizer.eos_id is not None:
            completion_ids.append(self.tokenizer.eos_id)
        weights = [0.0] * len(prompt_ids) + [1.0] * len(completion_ids)
        return TokenizedExample(prompt_ids + completion_ids, weights)

    def _turn_length(self, turn_ids: Sequence[int]) -> int:
        """Tokens of a turn up to its end-of-turn token; all of them where the template has none."""
        for position, token_id in enumerate(turn_ids):
            if token_id in self.tokenizer.eos_ids:
                return position + 1
        return len(turn_ids)

    def _render(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> _Rendering:
        disguise = Disguise([messages, tools], self.tokenizer.special_tokens, avoid=self.source)
        hidden = disguise.hide(messages)
        hidden_tools = disguise.hide(tools)
        text = self._render_text(hidden, hidden_tools, add_generation_prompt)
        starts: list[int | None] = []
        for index, message in enumerate(hidden):
            if message["role"] == "assistant":
                prompt = self._render_text(hidden[:index], hidden_tools, True) if index else ""
                starts.append(len(prompt) if text.startswith(prompt) else None)
        return _Rendering(text, starts, disguise)

    def _render_text(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> str:
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            raise InvalidMessages(f"the chat template refused the messages: {error}") from error

    def _encode(self, rendering: _Rendering, cuts: list[int]) -> list[list[int]]:
        """Ids of each part of the text between `cuts`: no token reaches across a cut."""
        bounds = [0, *cuts, len(rendering.text)]
        parts: list[list[int]] = []
        position: Position = "start"
        for start, end in itertools.pairwise(bounds):
            ids: list[int] = []
            for piece in self.tokenizer.split_special(rendering.text[start:end]):
                if isinstance(piece, int):
                    ids.append(piece)
                    position = "after_special"
                else:
                    text = rendering.disguise.reveal(piece)
                    ids += self.tokenizer.encode(text, position=position)
                    position = "continuation"
            parts.append(ids)
        return parts

    def _normalise(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> list[Message]:
        """Messages in the shape that templates expect; nothing in them that this one would pass over.

        Raises `InvalidMessages`.
        """
        normal = normalise(messages, knows_developer="developer" in self.source)
        if tools and not self.shows_tools:
            raise InvalidMessages(
                "tools: the chat template of this base shows the model no tools; leave them out, "
                "describe them in a message, or use a base that knows tools",
                param="tools",
            )
        for index, message in enumerate(normal):
            role = message["role"]
            if "tool_calls" in message and not self.shows_tool_calls:
                key = "tool_calls" if messages[index].get("tool_calls") else "function_call"
                raise InvalidMessages(
                    f"messages[{index}].{key}: the chat template of this base does not show calls to "
                    "the model; write the call into the message's content, or use a base that knows "
                    "tools",
                    param=f"messages[{index}].{key}",
                )
            if role not in self._shown_roles:
                raise InvalidMessages(
                    f"messages[{index}].role: the chat template of this base does not show the model "
                    f"what {role!r} says; send it as another role, such as 'user'",
                    param=f"messages[{index}].role",
                )
        return normal

    def _render_probe(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> str:
        return self._render_text(messages, tools, add_generation_prompt=False)


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
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _read_source(path: Path) -> str:
    """The template text of a base folder, from any of the places where it may stand."""
    file = path / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        file = path / name
        value = (
            json.loads(file.read_text(encoding="utf-8")).get("chat_template")
            if file.exists()
            else None
        )
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            return _default_of(value)
    raise ChatTemplateError(f"{path} has no chat template")


def _default_of(templates: Iterable[dict[str, str]]) -> str:
    by_name = {t["name"]: t["template"] for t in templates}
    if "default" not in by_name:
        raise ChatTemplateError("the base names several chat templates and none of them 'default'")
    return by_name["default"]
