"""Chat messages to token ids: the one implementation that training and serving share.

Two promises. Text from users never becomes a special token: user strings are disguised before the
template runs, and only what is a special token *then* is one. And what training shows the model is
what serving shows it: the ids before every assistant turn of a training example equal the prompt that
serving renders for the messages before that turn, because both cut the text at the same places.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import template_probes
from .disguise import Disguise, OutOfCharacters
from .messages import (
    ROLES,
    ChatTemplateError,
    InvalidMessages,
    Message,
    normalise,
    weight_of,
)
from .rendering import Renderer, Rendering, Tools
from .tokenizer import Position, Tokenizer
from .tools.dialect import Dialect, definitions

NO_THOUGHTS = {"enable_thinking": False, "thinking": False}
"""What templates are told, by either name, whose model shall not think."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """One training example: `weights[t]` is the loss weight of predicting `input_ids[t]`. Both (T,)."""

    input_ids: list[int]
    weights: list[float]
    num_bytes: list[int] | None = None
    """(T,) of a raw text: how many of its bytes each token stands for."""


@dataclass(slots=True)
class _Part:
    """What stands between two cuts, as far as its first end-of-turn token and behind it."""

    ids: list[int] = field(default_factory=list)
    num_turn_ids: int | None = None
    """With the end-of-turn token; None if there is none."""
    texts: list[str] = field(default_factory=list)
    """Before the end-of-turn token, as rendered."""


class ChatTemplate:
    """A base model's chat template with its tokenizer. Safe to share between threads."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, may_think: bool = True) -> None:
        self.source = source
        self.tokenizer = tokenizer
        told = {} if may_think else NO_THOUGHTS
        variables: dict[str, str | bool] = {
            "bos_token": "",
            "eos_token": "",
            **tokenizer.names,
            **told,
        }
        self.renderer = Renderer(source, variables)

    @classmethod
    def load(cls, path: Path, *, document_end: str | None = None) -> ChatTemplate:
        """Reads template and tokenizer of the base folder `path`. Raises `ChatTemplateError`."""
        return cls(_read_source(path), Tokenizer.load(path, document_end=document_end))

    @cached_property
    def without_thoughts(self) -> ChatTemplate:
        """As it has the model answer at once; the same again, where it knows no such thing."""
        return ChatTemplate(self.source, self.tokenizer, may_think=False)

    @cached_property
    def dialect(self) -> Dialect:
        """What the template knows of tools and thoughts."""
        return Dialect(
            self.renderer,
            self.source,
            special_tokens=self.tokenizer.special_tokens,
            stop_ids=self.tokenizer.stop_ids,
        )

    @cached_property
    def _keeps_results_apart(self) -> bool:
        """Whether what would be learnt of a turn that calls a tool ends before the tool's answer."""
        messages = [template_probes.USER, template_probes.CALLING, template_probes.RESULT]
        try:
            rendering, disguise = self._render(*self._written(messages, None), False)
        except InvalidMessages:
            # What such rows lack, they are told one by one.
            return True
        if None in rendering.starts:
            return True
        turn = self._encode(rendering, disguise)[1]
        return template_probes.NOTE not in "".join(turn.texts)

    @cached_property
    def _shown_roles(self) -> frozenset[str]:
        """A base whose users or assistants are not shown is refused when it is imported."""
        others = ROLES - {"user", "assistant"}
        shown = {r for r in others if template_probes.shows_role(self.renderer.text, r)}
        return frozenset({"user", "assistant", *shown})

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Tools = None,
    ) -> list[int]:
        """The ids of a prompt, as serving feeds it to the model. Raises `InvalidMessages`."""
        rendering, disguise = self._render(*self._written(messages, tools), add_generation_prompt)
        return [i for part in self._encode(rendering, disguise) for i in part.ids]

    def tokenize_chat(self, messages: Sequence[Message], tools: Tools = None) -> TokenizedExample:
        """One training example: loss on each assistant turn, its end-of-turn token included.

        A message's `weight` (default 1) scales its loss; 0 leaves it as context. What follows the last
        assistant turn is cut off, for nothing is learned from it. Raises `InvalidMessages` for messages
        that the template refuses, `ChatTemplateError` for a template whose turns cannot be told apart.
        """
        written, shown_tools = self._written(messages, tools)
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if not turns:
            raise InvalidMessages("a training example needs at least one assistant message")
        turn_weights = [weight_of(messages[i], f"messages[{i}]") for i in turns]
        rendering, disguise = self._render(written, shown_tools, add_generation_prompt=False)
        _check_starts(rendering, turns)
        self._check_results(messages, written)
        first, *parts = self._encode(rendering, disguise)
        input_ids, weights = first.ids, [0.0] * len(first.ids)
        last_end = 0
        said = [message for message in written if message["role"] == "assistant"]
        for turn, message, part, weight in zip(turns, said, parts, turn_weights, strict=True):
            num_turn_ids = part.num_turn_ids
            if num_turn_ids is None:
                if turn + 1 < len(messages):
                    raise ChatTemplateError(
                        f"messages[{turn}]: the chat template puts no end-of-turn token behind this turn, "
                        "so that what follows would be learnt with it; end the example here"
                    )
                num_turn_ids = len(part.ids)
            if weight:
                _check_shown(message, f"messages[{turn}]", disguise.reveal("".join(part.texts)))
            last_end = len(input_ids) + num_turn_ids
            input_ids += part.ids
            weights += [weight] * num_turn_ids + [0.0] * (len(part.ids) - num_turn_ids)
        return TokenizedExample(input_ids[:last_end], weights[:last_end])

    def tokenize_completion(self, prompt: str, completion: str) -> TokenizedExample:
        """One raw text example, no template: loss on `completion` and the end token behind it."""
        prompt_ids = self.tokenizer.encode_prompt(prompt)
        position: Position = (
            "continuation" if prompt else "after_special" if prompt_ids else "start"
        )
        completion_ids = self.tokenizer.encode(completion, position=position)
        if self.tokenizer.eos_id is not None:
            completion_ids.append(self.tokenizer.eos_id)
        weights = [0.0] * len(prompt_ids) + [1.0] * len(completion_ids)
        return TokenizedExample(prompt_ids + completion_ids, weights)

    def tokenize_document(self, text: str) -> TokenizedExample:
        """A whole raw text, no template: loss on all that something stands before."""
        ids = self.tokenizer.encode_document(text)
        weights = [0.0, *[1.0] * (len(ids) - 1)] if ids else []
        return TokenizedExample(ids, weights, self.tokenizer.document_bytes(text, ids))

    def _render(
        self, messages: list[Message], tools: Tools, add_generation_prompt: bool
    ) -> tuple[Rendering, Disguise]:
        """The text with what users wrote disguised."""
        try:
            disguise = Disguise([messages, tools], self.tokenizer.special_tokens, avoid=self.source)
            hidden, hidden_tools = disguise.hide(messages), disguise.hide(tools)
        except RecursionError as error:
            raise InvalidMessages("the messages are nested too deeply") from error
        except OutOfCharacters as error:
            raise InvalidMessages(str(error)) from error
        rendering = self.renderer.render(
            hidden, hidden_tools, add_generation_prompt, mark=disguise.mark
        )
        return rendering, disguise

    def _encode(self, rendering: Rendering, disguise: Disguise) -> list[_Part]:
        """What stands between the starts of the turns: no token reaches across one."""
        bounds = [0, *rendering.cuts, len(rendering.text)]
        parts: list[_Part] = []
        position: Position = "start"
        for start, end in itertools.pairwise(bounds):
            part = _Part()
            for piece in self.tokenizer.split_special(rendering.text[start:end]):
                if isinstance(piece, int):
                    part.ids.append(piece)
                    position = "after_special"
                    if piece in self.tokenizer.eos_ids and part.num_turn_ids is None:
                        part.num_turn_ids = len(part.ids)
                else:
                    text = disguise.reveal(piece)
                    part.ids += self.tokenizer.encode(text, position=position)
                    position = "continuation"
                    if part.num_turn_ids is None:
                        part.texts.append(text)
            parts.append(part)
        return parts

    def _check_results(self, messages: Sequence[Message], written: list[Message]) -> None:
        """Raises where a tool's answer would be learnt."""
        if self._keeps_results_apart or all(message["role"] != "tool" for message in written[1:]):
            return
        index = next(
            (i for i, m in enumerate(messages[1:]) if m["role"] in ("tool", "function")), None
        )
        if index is not None:
            raise ChatTemplateError(
                f"messages[{index}]: the chat template puts no end-of-turn token between a call and its result, "
                "so that the result would be learnt with it; end the example at the call"
            )

    def _written(
        self, messages: Sequence[Message], tools: Sequence[Any] | None
    ) -> tuple[list[Message], Tools]:
        """Messages and tools as this template takes them; nothing in them that it would pass over.

        Raises `InvalidMessages`.
        """
        normal = normalise(messages, knows_developer="developer" in self.source)
        own_form = self.dialect.own_form
        for index, message in enumerate(normal):
            role = message["role"]
            is_shown = own_form is None and "function" in self._shown_roles
            if role == "function" and not is_shown:
                # What a tool's answer was called before.
                message["role"] = role = "tool"
            if role not in self._shown_roles and (role != "tool" or own_form is None):
                raise InvalidMessages(
                    f"messages[{index}].role: the chat template of this base does not show the model "
                    f"what {role!r} says; send it as another role, such as 'user'",
                    param=f"messages[{index}].role",
                )
        return self.dialect.written(normal, definitions(tools))


def _check_starts(rendering: Rendering, turns: list[int]) -> None:
    """Raises unless each turn's prompt is the one that serving renders."""
    if not rendering.is_searched:
        raise ChatTemplateError(
            "this base's chat template looks ahead, and its turns cannot be found in a conversation as long "
            "as this one; split it into shorter examples"
        )
    if None in rendering.starts:
        raise ChatTemplateError(
            f"messages[{turns[rendering.starts.index(None)]}]: the chat template rewrites earlier turns "
            "when later ones follow, so that training and serving would see different prompts; split such "
            "conversations into one example a turn"
        )


def _check_shown(message: Message, where: str, shown: str) -> None:
    """Raises unless a turn's text and calls, white space aside, are in what is learnt as that turn."""
    squeezed = "".join(shown.split())
    names = Counter(call["function"]["name"] for call in message.get("tool_calls", ()))
    for name, num_calls in names.items():
        if squeezed.count("".join(name.split())) < num_calls:
            raise ChatTemplateError(
                f"{where}: the chat template of this base does not show the call of {name!r}"
                f"{f' {num_calls} times' if num_calls > 1 else ''}, so that silence would be learnt; make it a turn of "
                "its own, or give the turn the weight 0"
            )
    reasoning = message.get("reasoning_content") or ""
    if "".join(reasoning.split()) not in squeezed:
        raise ChatTemplateError(
            f"{where}.reasoning_content: the chat template of this base does not show it here, so that answers "
            "without it would be learnt; leave it out, write it into the content, or end the example at this turn"
        )
    if "".join(message["content"].split()) not in squeezed:
        raise ChatTemplateError(
            f"{where}: the chat template does not show this turn as it is written, so that something else "
            "would be learnt; split the conversation into one example a turn, or give the turn the weight 0"
        )


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
