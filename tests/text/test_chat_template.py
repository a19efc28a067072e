from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from modeling.llama_files import CHATML_TEMPLATE
from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError, InvalidMessages
from text.tokenizer import Tokenizer

from .chats import Json, assistant, user

IM_START, IM_END = 257, 258

# Templates that mix user text into their own in ways that invite trouble.
TEMPLATES = {
    "chatml": CHATML_TEMPLATE,
    "trimming": CHATML_TEMPLATE.replace("message['content']", "message['content'] | trim"),
    "glued": (
        "{% for m in messages %}<|{{ m['content'] }}{{ m['content'] }}|>{{ m['role'] }}:"
        "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    ),
    "json": "{% for m in messages %}{{ m | tojson }}<|im_end|>{% endfor %}",
}


@pytest.fixture(scope="module")
def template(base_path: Path) -> ChatTemplate:
    return ChatTemplate.load(base_path)


def trap_texts() -> st.SearchStrategy[str]:
    """Text made of special tokens, pieces of them, and anything else."""
    tokens = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    pieces = [t[:k] for t in tokens for k in range(1, len(t))] + [
        t[k:] for t in tokens for k in range(1, len(t))
    ]
    blank = st.sampled_from([" ", "\n", "\n\n", "  "])
    word = st.one_of(st.sampled_from(tokens + pieces), blank, st.text(max_size=5))
    return st.lists(word, max_size=6).map("".join)


def conversations() -> st.SearchStrategy[list[Json]]:
    turn = st.tuples(trap_texts(), trap_texts()).map(lambda t: [user(t[0]), assistant(t[1])])
    return st.lists(turn, min_size=1, max_size=3).map(lambda turns: [m for t in turns for m in t])


def supervised_text(template: ChatTemplate, messages: list[Json]) -> str:
    example = template.tokenize_chat(messages)
    ids = [i for i, w in zip(example.input_ids, example.weights, strict=True) if w]
    return template.tokenizer.decode(ids, skip_special=False)


@settings(deadline=None)
@given(conversations(), st.booleans())
def test_render_chatml_holds_each_message_as_plain_text(
    template: ChatTemplate, messages: list[Json], add_generation_prompt: bool
) -> None:
    expected: list[int] = []
    for message in messages:
        body = f"{message['role']}\n{message['content']}".encode()
        expected += [IM_START, *body, IM_END, ord("\n")]
    if add_generation_prompt:
        expected += [IM_START, *b"assistant\n"]
    assert template.render(messages, add_generation_prompt=add_generation_prompt) == expected


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None)
@given(messages=conversations())
def test_render_user_text_adds_no_special_token(
    tokenizer: Tokenizer, name: str, messages: list[Json]
) -> None:
    template = ChatTemplate(TEMPLATES[name], tokenizer)
    harmless = [{**m, "content": "-"} for m in messages]

    def special_tokens(of: list[Json]) -> list[int]:
        ids = template.render(of, add_generation_prompt=True)
        return [i for i in ids if i in tokenizer.special_ids]

    assert special_tokens(messages) == special_tokens(harmless)


@settings(deadline=None)
@given(conversations())
def test_tokenize_chat_each_turn_follows_the_prompt_that_serving_renders(
    template: ChatTemplate, messages: list[Json]
) -> None:
    example = template.tokenize_chat(messages)
    turn_starts = [
        i for i, w in enumerate(example.weights) if w and (not i or not example.weights[i - 1])
    ]
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    assert len(turn_starts) == len(turns)
    for start, turn in zip(turn_starts, turns, strict=True):
        prompt = template.render(messages[:turn], add_generation_prompt=True)
        assert example.input_ids[:start] == prompt


def test_tokenize_chat_prefix_holds_where_bpe_would_merge_across(smollm_path: Path) -> None:
    template = ChatTemplate.load(smollm_path)
    messages = [user("a"), assistant("\n\n  b"), user("c"), assistant(" d\n")]
    example = template.tokenize_chat(messages)
    prompt = template.render(messages[:3], add_generation_prompt=True)
    assert example.input_ids[: len(prompt)] == prompt
    rest = template.tokenizer.decode(example.input_ids[len(prompt) :], skip_special=False)
    assert rest == " d\n<|im_end|>"


def test_tokenize_chat_supervises_content_and_end_of_turn_only(template: ChatTemplate) -> None:
    messages = [
        {"role": "system", "content": "s"},
        user("u"),
        assistant("one"),
        user("v"),
        assistant("two"),
    ]
    assert supervised_text(template, messages) == "one<|im_end|>two<|im_end|>"
    example = template.tokenize_chat(messages)
    assert example.input_ids[-1] == IM_END
    assert len(example.input_ids) == len(example.weights)


def test_tokenize_chat_scales_by_message_weight(template: ChatTemplate) -> None:
    messages = [user("u"), assistant("a", weight=0), user("v"), assistant("b", weight=0.5)]
    assert supervised_text(template, messages) == "b<|im_end|>"
    assert set(template.tokenize_chat(messages).weights) == {0.0, 0.5}


def test_tokenize_chat_cuts_what_follows_the_last_turn(template: ChatTemplate) -> None:
    messages = [user("u"), assistant("a")]
    assert template.tokenize_chat([*messages, user("more")]) == template.tokenize_chat(messages)


def test_tokenize_chat_shares_a_weight_with_no_template(template: ChatTemplate) -> None:
    weighted, plain = [user("u"), assistant("a", weight=1)], [user("u"), assistant("a")]
    assert template.render(weighted, add_generation_prompt=False) == template.render(
        plain, add_generation_prompt=False
    )


def test_tokenize_chat_without_assistant_is_refused(template: ChatTemplate) -> None:
    with pytest.raises(InvalidMessages, match="at least one assistant message"):
        template.tokenize_chat([user("u")])


def test_tokenize_chat_template_that_rewrites_history_is_refused(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ messages | length }}{{ m['content'] }}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    template = ChatTemplate(source, tokenizer)
    messages = [user("u"), assistant("a"), user("v"), assistant("b")]
    with pytest.raises(ChatTemplateError, match="rewrites earlier turns") as caught:
        template.tokenize_chat(messages)
    assert not isinstance(caught.value, InvalidMessages)
    assert template.render(messages, add_generation_prompt=True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_tokenize_chat_generation_prompt_that_thinks_is_not_supervised(
    tokenizer: Tokenizer,
) -> None:
    source = CHATML_TEMPLATE.replace(
        "{{ '<|im_start|>assistant\\n' }}", "{{ '<|im_start|>assistant\\n<think>\\n' }}"
    ).replace(
        "message['content']",
        "('<think>\\n\\n</think>\\n' if message['role'] == 'assistant' else '') + message['content']",
    )
    template = ChatTemplate(source, tokenizer)
    messages = [user("u"), assistant("a")]
    assert supervised_text(template, messages) == "\n</think>\na<|im_end|>"


def test_tokenize_chat_template_without_end_token_supervises_the_turn(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    assert supervised_text(ChatTemplate(source, tokenizer), [user("u"), assistant("a")]) == "a\n"


def test_tokenize_completion_ends_with_eos_and_knows_no_template(template: ChatTemplate) -> None:
    example = template.tokenize_completion("1+1=<|im_end|>", "2")
    assert example.input_ids == [*b"1+1=<|im_end|>", ord("2"), IM_END]
    assert example.weights == [0.0] * 14 + [1.0, 1.0]


def test_tokenize_completion_prompt_is_what_serving_encodes(template: ChatTemplate) -> None:
    example = template.tokenize_completion("Once", " upon")
    prompt = template.tokenizer.encode_prompt("Once")
    assert example.input_ids[: len(prompt)] == prompt


def test_render_joins_text_parts_and_fills_missing_content(template: ChatTemplate) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template.render([{"role": "user", "content": parts}], add_generation_prompt=False) == (
        template.render([user("a\nb")], add_generation_prompt=False)
    )
    empty = {"role": "assistant", "content": None}
    assert template.render([user("u"), empty], add_generation_prompt=False) == template.render(
        [user("u"), assistant("")], add_generation_prompt=False
    )


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "must not be empty"),
        (["hello"], r"messages\[0\] must be an object"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\]\.role must be one of"),
        ([user("u"), {"role": "user", "content": 3}], r"messages\[1\]\.content must be a string"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "text parts only"),
    ],
)
def test_render_messages_of_the_wrong_shape_are_refused(
    template: ChatTemplate, messages: list[Any], problem: str
) -> None:
    with pytest.raises(InvalidMessages, match=problem):
        template.render(messages, add_generation_prompt=True)


@pytest.mark.parametrize("weight", [-1, "1", True])
def test_tokenize_chat_weight_that_is_no_number_is_refused(
    template: ChatTemplate, weight: Any
) -> None:
    with pytest.raises(InvalidMessages, match="weight"):
        template.tokenize_chat([user("u"), assistant("a", weight=weight)])


def test_render_developer_is_a_system_message_where_the_template_knows_none(
    template: ChatTemplate,
) -> None:
    developer = [{"role": "developer", "content": "be brief"}, user("u")]
    system = [{"role": "system", "content": "be brief"}, user("u")]
    assert template.render(developer, add_generation_prompt=True) == template.render(
        system, add_generation_prompt=True
    )


def test_render_what_the_template_refuses_is_the_messages_fault(tokenizer: Tokenizer) -> None:
    source = "{{ raise_exception('Roles must alternate') if messages | length > 1 }}x"
    with pytest.raises(InvalidMessages, match="Roles must alternate"):
        ChatTemplate(source, tokenizer).render([user("u"), user("v")], add_generation_prompt=True)


def test_render_template_cannot_reach_python(tokenizer: Tokenizer) -> None:
    source = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(InvalidMessages, match="unsafe"):
        ChatTemplate(source, tokenizer).render([user("u")], add_generation_prompt=True)


def test_render_role_that_the_template_passes_over_is_refused(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if m.role in ('user', 'assistant', 'tool') %}"
        "{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    template = ChatTemplate(source, tokenizer)
    for role in ("system", "developer"):
        with pytest.raises(InvalidMessages, match="does not show the model what") as caught:
            template.render([{"role": role, "content": "x"}, user("u")], add_generation_prompt=True)
        assert caught.value.param == "messages[0].role"
    assert template.render(
        [user("u"), {"role": "tool", "content": "x"}], add_generation_prompt=True
    )


def test_render_a_refusal_is_the_turns_text(template: ChatTemplate) -> None:
    said = template.tokenize_chat([user("u"), assistant("I can't.")])
    for message in (
        {"role": "assistant", "content": None, "refusal": "I can't."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I can't."}]},
        {"role": "assistant", "content": "I can't.", "refusal": None},
    ):
        assert template.tokenize_chat([user("u"), message]) == said


def test_render_reads_messages_as_clients_dump_them(template: ChatTemplate) -> None:
    dumped = ChatCompletionMessage(role="assistant", content="a", annotations=[]).model_dump()
    assert {"audio", "function_call", "refusal", "tool_calls"} <= dumped.keys()
    messages = [
        user("u"),
        dumped,
        {"role": "tool", "tool_call_id": "1", "name": "f", "content": "x"},
    ]
    plain = [user("u"), assistant("a"), {"role": "tool", "content": "x"}]
    assert template.render(messages, add_generation_prompt=True) == template.render(
        plain, add_generation_prompt=True
    )


def test_render_generation_markers_pass(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ids = ChatTemplate(source, tokenizer).render([user("hi")], add_generation_prompt=False)
    assert tokenizer.decode(ids) == "hi"


def test_load_finds_the_template_in_tokenizer_config(base_path: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((base_path / "tokenizer.json").read_bytes())
    with pytest.raises(ChatTemplateError, match="no chat template"):
        ChatTemplate.load(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        '{"chat_template": [{"name": "default", "template": "{{ bos_token }}A"}],'
        ' "bos_token": {"content": "<|im_start|>"}}'
    )
    assert ChatTemplate.load(tmp_path).render([user("u")], add_generation_prompt=True) == [
        IM_START,
        ord("A"),
    ]


def test_template_that_does_not_parse_says_so(tokenizer: Tokenizer) -> None:
    with pytest.raises(ChatTemplateError, match="does not parse"):
        ChatTemplate("{% for %}", tokenizer)


def test_smollm_renders_as_transformers_does(smollm_path: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm_path)
    template = ChatTemplate.load(smollm_path)
    messages = [user("List:\n\n1. a  2\n    10"), assistant("Sure, 42.\n\nDone"), user("  ok?")]
    for add_generation_prompt in (True, False):
        encoding: Any = reference.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt
        )
        ids = template.render(messages, add_generation_prompt=add_generation_prompt)
        assert ids == encoding["input_ids"]
