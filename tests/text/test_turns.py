"""What is learnt of a conversation: each assistant turn, exactly, behind the prompt that serving renders."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.importer import ImportFailed, ensure_imported
from serving.completions.request import encode_prompt
from tests.modeling.models import Base
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError, InvalidMessages
from text.rendering import MAX_PREFIX_MESSAGES, Renderer
from text.tokenizer import Tokenizer

from .chats import Json, assistant, user
from .templates import LOOK_AHEAD, LOOK_BACK, REWRITE

MARK = "\U00100000"
TEMPLATES = LOOK_BACK | LOOK_AHEAD | REWRITE
SYSTEM_TEXT = "You are a helpful assistant."


@pytest.fixture(scope="module", params=["tiny", "smollm"])
def any_template(
    base_path: Path, smollm_path: Path, request: pytest.FixtureRequest
) -> ChatTemplate:
    return ChatTemplate.load(base_path if request.param == "tiny" else smollm_path)


def conversations() -> st.SearchStrategy[list[Json]]:
    texts = st.one_of(
        st.sampled_from(
            ["", "a", "stop", "  a ", "<think>x</think>y", "<|im_end|>", "assistant\n", SYSTEM_TEXT]
        ),
        st.text(max_size=8),
    )
    roles = st.sampled_from(["system", "user", "assistant", "assistant", "tool"])
    message = st.builds(lambda role, text: {"role": role, "content": text}, roles, texts)
    return st.lists(message, min_size=1, max_size=7)


def spans(template: ChatTemplate, messages: list[Json]) -> list[str]:
    """The text of each stretch that is learnt."""
    example = template.tokenize_chat(messages)
    pairs = zip(example.input_ids, example.weights, strict=True)
    stretches = [
        [i for i, _ in part] for is_learnt, part in groupby(pairs, lambda p: p[1] > 0) if is_learnt
    ]
    return [template.tokenizer.decode(ids, skip_special=False) for ids in stretches]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_only_look_back_are_known(tokenizer: Tokenizer, name: str) -> None:
    # "leaves early" looks back too; where it leaves its loop is seen when it does.
    is_marked = Renderer(TEMPLATES[name], tokenizer.names).is_marked
    assert is_marked is (name in LOOK_BACK or name == "leaves early")


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=15)
@given(messages=conversations(), add_generation_prompt=st.booleans())
def test_marks_find_what_rendering_each_prefix_finds(
    tokenizer: Tokenizer, name: str, messages: list[Json], add_generation_prompt: bool
) -> None:
    renderer = Renderer(TEMPLATES[name], tokenizer.names)
    found = renderer.render(messages, None, add_generation_prompt, mark=MARK)
    assert found.text == renderer.text(messages, None, add_generation_prompt)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for turn, start in zip(turns, found.starts, strict=True):
        if turn:
            prompt = renderer.text(messages[:turn], None, True)
            assert start == (len(prompt) if found.text.startswith(prompt) else None)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=15)
@given(messages=conversations())
def test_each_turn_is_learnt_behind_the_prompt_that_serving_renders_or_not_at_all(
    tokenizer: Tokenizer, name: str, messages: list[Json]
) -> None:
    template = ChatTemplate(TEMPLATES[name], tokenizer)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for turn in turns:
        # One turn at a time, so that its span is known by its weight.
        weighted = [{**m, "weight": float(i == turn)} for i, m in enumerate(messages)]
        try:
            example = template.tokenize_chat(weighted)
        except ChatTemplateError:
            assert name in REWRITE or name in ("leaves early", "prompt depends on the turn")
            continue
        learnt = [i for i, weight in enumerate(example.weights) if weight]
        assert learnt == list(range(learnt[0], learnt[-1] + 1))
        text = tokenizer.decode([example.input_ids[i] for i in learnt], skip_special=False)
        said = "".join(messages[turn]["content"].split())
        # A template's prompt may leave a part of its own for the model to say.
        own = "".join(text.split()).removesuffix(said + "<|im_end|>")
        assert own in (
            "",
            "</think>" * (name == "thinks first"),
            "<|im_start|>assistant" * (name == "prompt depends on the turn"),
        )
        if turn:
            prompt = template.render(messages[:turn], add_generation_prompt=True)
            assert example.input_ids[: learnt[0]] == prompt


def test_conversation_that_begins_with_the_assistant_teaches_the_greeting(
    tokenizer: Tokenizer,
) -> None:
    template = ChatTemplate(LOOK_BACK["own system text"], tokenizer)
    greeting = [assistant("You are")]
    assert spans(template, greeting) == ["You are<|im_end|>"]
    longer = [*greeting, user("u"), assistant("a")]
    assert spans(template, longer) == ["You are<|im_end|>", "a<|im_end|>"]
    # Serving renders the same prompt for the system text that the template says by itself.
    example = template.tokenize_chat(greeting)
    own = [{"role": "system", "content": SYSTEM_TEXT}]
    prompt = template.render(own, add_generation_prompt=True)
    assert example.input_ids[: len(prompt)] == prompt
    assert set(example.weights[: len(prompt)]) == {0.0}
    served = template.render(longer[:2], add_generation_prompt=True)
    assert template.tokenize_chat(longer).input_ids[: len(served)] == served


def test_smollm_greeting_is_learnt_and_not_its_system_text(smollm_path: Path) -> None:
    template = ChatTemplate.load(smollm_path)
    assert template.renderer.is_marked
    assert spans(template, [assistant("Good day")]) == ["Good day<|im_end|>"]


def test_thoughts_that_the_template_strips_are_not_learnt_as_said(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(REWRITE["strips earlier thoughts"], tokenizer)
    thought = assistant("<think>x</think>y")
    assert spans(template, [user("u"), thought]) == ["<think>x</think>y<|im_end|>"]
    messages = [user("u"), thought, user("v"), assistant("b")]
    with pytest.raises(ChatTemplateError, match=r"messages\[1\]: the chat template does not show"):
        template.tokenize_chat(messages)
    messages[1] = {**thought, "weight": 0}
    assert spans(template, messages) == ["b<|im_end|>"]


def test_turn_without_an_end_does_not_teach_what_follows(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = ChatTemplate(source, tokenizer)
    with pytest.raises(ChatTemplateError, match="no end-of-turn token"):
        template.tokenize_chat([user("u"), assistant("a"), user("v"), assistant("b")])


def test_too_many_turns_for_a_template_that_looks_ahead(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(LOOK_AHEAD["asks for the last"], tokenizer)
    num_turns = int(MAX_PREFIX_MESSAGES**0.5) + 2
    messages = [m for _ in range(num_turns) for m in (user("u"), assistant("a"))]
    with pytest.raises(ChatTemplateError, match="looks ahead"):
        template.tokenize_chat(messages)
    assert template.render(messages, add_generation_prompt=True)


@pytest.mark.parametrize("nested", ["arguments", "key"])
def test_deep_nesting_and_lack_of_characters_are_the_messages_fault(
    tokenizer: Tokenizer, nested: str
) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    template = ChatTemplate(LOOK_BACK["chatml"], tokenizer)
    with pytest.raises(InvalidMessages, match="too deeply"):
        template.render([{**user("u"), nested: deep}], add_generation_prompt=True)
    every = "".join(map(chr, range(0x100000, 0x10FFFE)))
    with pytest.raises(InvalidMessages, match="private character"):
        template.render([user(every)], add_generation_prompt=True)


@pytest.mark.parametrize("name", [*LOOK_BACK, *LOOK_AHEAD])
def test_import_accepts_templates_that_keep_turns_apart(
    base_path: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(base_path, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    assert ensure_imported(Base("mine", f"directory:{folder}"), tmp_path) == folder


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "not learn to stop"),
        ("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}", "not learn to stop"),
        ("{% for m in messages %}{{ m.role }}<|im_end|>{% endfor %}", "does not show this turn"),
        ("hello<|im_end|>", "does not show this turn"),
        (
            "{% for m in messages %}{{ m.content }}{{ '<|im_end|>' if m.role == 'user' }}{% endfor %}",
            "not learn to stop",
        ),
        (REWRITE["counts all messages"], "rewrites earlier turns"),
    ],
)  # fmt: skip
def test_import_refuses_a_template_whose_turns_cannot_be_learnt(
    base_path: Path, tmp_path: Path, source: str, problem: str
) -> None:
    folder = shutil.copytree(base_path, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    with pytest.raises(ImportFailed, match=problem):
        ensure_imported(Base("mine", f"directory:{folder}"), tmp_path)


RAW_TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "a", "a ", "\n", "<|im_start|>", "<|im_end|>x", "e\u0301", "😀", "\u200d", "\0"]
    ),
    st.text(max_size=12),
)


@settings(deadline=None)
@given(prompt=RAW_TEXTS, completion=RAW_TEXTS)
def test_completion_is_learnt_behind_the_prompt_that_serving_encodes(
    any_template: ChatTemplate, prompt: str, completion: str
) -> None:
    tokenizer = any_template.tokenizer
    example = any_template.tokenize_completion(prompt, completion)
    served = encode_prompt(prompt, tokenizer, max_seq_len=512).token_ids
    first = example.weights.index(1.0)
    assert example.input_ids[:first] == served
    # Something stands before the first token that is learnt, or nothing would predict it.
    assert first > 0
    learnt = example.input_ids[first:]
    # SmolLM2's vocabulary lacks the bytes of some characters, so not every text comes back.
    assert tokenizer.decode(learnt[:-1]) == tokenizer.decode(tokenizer.encode(completion))
    assert learnt[-1] == tokenizer.eos_id
    # What is typed never becomes a special token; those before an empty prompt are the base's own.
    has_prompt = bool(tokenizer.encode(prompt))
    typed = [*(example.input_ids[:first] if has_prompt else ()), *learnt[:-1]]
    assert not tokenizer.special_ids.intersection(typed)
