"""Twice the text takes twice the time, whatever the text is: nobody can buy much time with few bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling.llama_files import CHATML_TEMPLATE
from text.chat_template import ChatTemplate
from text.disguise import Disguise
from text.messages import ChatTemplateError
from text.rendering import MAX_PREFIX_CHARS, MAX_PREFIX_MESSAGES, Renderer

from .templates import LOOK_AHEAD

Json = dict[str, Any]

# For four times the text: 2.3 for each doubling is 5.3, quadratic work 16.
MAX_RATIO = 8.0
NUM_REPEATS = 3
SMALL_CHARS = 6_000


def text_of(piece: str) -> Callable[[int], list[Json]]:
    return lambda n: [{"role": "user", "content": (piece * (n // len(piece) + 1))[:n]}]


def turns(num_chars: int) -> list[Json]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i}"} for i in range(num_chars // 16)]


def calls(num_chars: int) -> list[Json]:
    arguments = {f"k{i}": "<|im_" for i in range(num_chars // 16)}
    return [{"role": "user", "content": "u", "extra": [arguments]}]


CONVERSATIONS: dict[str, Callable[[int], list[Json]]] = {
    "angle brackets": text_of("<"),
    "tags": text_of("<|im_end|>"),
    "beginnings of tags": text_of("<|im_end"),
    "words": text_of("hello world "),
    "one letter": text_of("a"),
    "one word": text_of("Donaudampfschiff"),
    "spaces": text_of(" "),
    "line breaks": text_of("\n"),
    "tabs and breaks": text_of("\t\n"),
    "digits": text_of("7"),
    "apostrophes": text_of("'"),
    "accents": text_of("e\u0301"),
    "joiners": text_of("\u200d"),
    "ideographs": text_of("漢"),
    "emoji": text_of("😀"),
    "nulls": text_of("\0"),
    "private characters": text_of("\U00100000"),
    "messages": lambda n: [{"role": "user", "content": "<"}] * (n // 16),
    "turns": turns,
    "greetings": lambda n: [{"role": "assistant", "content": "a"}] * (n // 16),
    "parts": lambda n: [{"role": "user", "content": [{"type": "text", "text": "<"}] * (n // 2)}],
    "values of messages": calls,
}


def cpu_s(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(NUM_REPEATS):
        start_s = time.thread_time()
        work()
        times_s.append(time.thread_time() - start_s)
    return min(times_s)


@pytest.fixture(scope="module")
def smollm(smollm_path: Path) -> ChatTemplate:
    return ChatTemplate.load(smollm_path)


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_rendering_a_conversation_is_linear(smollm: ChatTemplate, kind: str) -> None:
    small, large = (CONVERSATIONS[kind](n) for n in (SMALL_CHARS, 4 * SMALL_CHARS))
    smollm.render(small, add_generation_prompt=True)
    ratio = cpu_s(lambda: smollm.render(large, add_generation_prompt=True)) / cpu_s(
        lambda: smollm.render(small, add_generation_prompt=True)
    )
    assert ratio <= MAX_RATIO


def test_hiding_looks_at_each_character_once_whatever_tokens_there_are() -> None:
    """Llama has 256 special tokens that begin alike."""
    few = {"<|reserved_0|>": 0}
    many = {f"<|reserved_{i}|>": i for i in range(256)}
    times_s = []
    for tokens in (few, many):
        disguise = Disguise([], tokens, avoid="")
        times_s.append(cpu_s(lambda d=disguise: d.hide("<|res" * 20_000)))  # type: ignore[misc]
    assert times_s[1] <= 4 * times_s[0]


class Counting(Renderer):
    num_messages = 0
    num_chars = 0

    def _render(self, template: Any, messages: list[Json], *more: Any) -> str:
        text = super()._render(template, messages, *more)
        self.num_messages += len(messages)
        self.num_chars += len(text)
        return text


@pytest.mark.parametrize("num_turns", [1, 10, 100, 1000])
def test_a_template_that_looks_back_is_rendered_once(num_turns: int) -> None:
    renderer = Counting(CHATML_TEMPLATE, {})
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}] * num_turns
    assert None not in renderer.render(messages, None, True, mark="\U00100000").starts
    assert renderer.num_messages == len(messages)


def test_a_template_that_looks_ahead_is_rendered_so_often_and_no_more(
    smollm: ChatTemplate,
) -> None:
    source = LOOK_AHEAD["asks for the last"]
    for num_turns, num_chars in ((2000, 1), (100, 1 << 20)):
        renderer = Counting(source, {})
        messages = [{"role": "user", "content": "u" * num_chars}]
        messages += [{"role": "assistant", "content": "a"}] * num_turns
        found = renderer.render(messages, None, True, mark="\U00100000")
        assert not found.is_searched
        assert renderer.num_messages <= MAX_PREFIX_MESSAGES + len(messages)
        assert renderer.num_chars <= MAX_PREFIX_CHARS + 3 * len(found.text)
    with pytest.raises(ChatTemplateError, match="looks ahead"):
        ChatTemplate(source, smollm.tokenizer).tokenize_chat(messages)
