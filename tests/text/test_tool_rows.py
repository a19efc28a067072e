"""What is learnt of rows that call tools, on chat templates of the families that are about."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import groupby
from typing import Any

import pytest

from text.chat_template import ChatTemplate
from text.messages import ChatTemplateError, InvalidMessages
from text.tokenizer import Tokenizer
from text.tools.deltas import CallDelta

from .chats import assistant, user

_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def family(
    calls: str, *, tools: str = "{{ tools | tojson if tools }}", end: str = "<|im_end|>"
) -> str:
    return (
        tools + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}" + calls + "{% endfor %}"
        "{% if m.tool_calls %}" + end + "{% else %}<|im_end|>{% endif %}\n{% endfor %}" + _PROMPT
    )  # fmt: skip


# The call's markup, and how it reads.
FAMILIES = {
    "json in tags": (
        '<tool_call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}</tool_call>',
    ),
    "the call as it is": ("{{ c.function | tojson }}", '{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}'),
    "string or object": (
        "{{ c.function.name }}{% if c.function.arguments is string %}{{ c.function.arguments }}"
        "{% else %}{{ c.function.arguments | tojson }}{% endif %}",
        'weather{"city": "Oslo", "days": 2}',
    ),
    "strings put together": (
        "{{ '<call>' + c.function.name + '\\n' + c.function.arguments + '</call>' }}",
        '<call>weather\n{"city": "Oslo", "days": 2}</call>',
    ),
    "arguments as they come": ("{{ c.function.name }}({{ c.function.arguments }})", 'weather({"city": "Oslo", "days": 2})'),
    "parameters one by one": (
        "<function={{ c.function.name }}>{% for k, v in c.function.arguments | items %}"
        "<parameter={{ k }}>{{ v }}</parameter>{% endfor %}",
        "<function=weather><parameter=city>Oslo</parameter><parameter=days>2</parameter>",
    ),
}  # fmt: skip
FUNCTION = {"name": "weather", "arguments": '{"city":"Oslo","days":2}'}
CALL = {"id": "call00001", "type": "function", "function": FUNCTION}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather"}}]
NEW = [
    user("What is it like?"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "tool_call_id": "call00001", "content": "It rains there."},
    assistant("Take an umbrella."),
]
OLD = [
    NEW[0],
    {"role": "assistant", "content": None, "function_call": FUNCTION},
    {"role": "function", "name": "weather", "content": "It rains there."},
    NEW[3],
]


def learnt(template: ChatTemplate, messages: list[dict[str, Any]], tools: Any = TOOLS) -> list[str]:
    """The texts that are learnt, each of them in one piece."""
    example = template.tokenize_chat(messages, tools)
    pairs = zip(example.input_ids, example.weights, strict=True)
    spans = [[i for i, _ in span] for weight, span in groupby(pairs, lambda p: p[1]) if weight]
    return [template.tokenizer.decode(span, skip_special=False) for span in spans]


IN_OUR_OWN = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
)
"""Where nobody could tell a call of the template's from text."""


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("messages", [NEW, OLD], ids=["tool_calls", "function_call"])
def test_the_call_is_learnt_and_its_result_never(
    tokenizer: Tokenizer, name: str, messages: list[dict[str, Any]]
) -> None:
    markup, call = FAMILIES[name]
    template = ChatTemplate(family(markup), tokenizer)
    if template.dialect.own_form is not None:
        call = IN_OUR_OWN
    assert learnt(template, messages) == [f"{call}<|im_end|>", "Take an umbrella.<|im_end|>"]
    reader = template.dialect.reader({"weather": {"properties": {"city": {"type": "string"}}}})
    told = [*reader.push(call), *reader.finish()]
    assert told[0] == CallDelta(0, "weather", "")
    assert all(isinstance(one, CallDelta) for one in told)
    assert json.loads("".join(one.arguments for one in told)) == {"city": "Oslo", "days": 2}  # type: ignore[union-attr]
    # Each turn follows the prompt that serving renders, tools and all.
    example = template.tokenize_chat(messages, TOOLS)
    for turn in (1, 3):
        prompt = template.render(messages[:turn], add_generation_prompt=True, tools=TOOLS)
        assert example.input_ids[: len(prompt)] == prompt
        assert "weather" in tokenizer.decode(prompt).partition("What is it like?")[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_arguments_that_are_no_text_end_no_server(tokenizer: Tokenizer, name: str) -> None:
    """A model may write half of a surrogate pair, and a client send that back."""
    template = ChatTemplate(family(FAMILIES[name][0]), tokenizer)
    for broken in ('{"city": "\\ud800"}', '{"\\udfff": 1}', '{"city": NaN}', '{"city": '):
        call = {**CALL, "function": {**FUNCTION, "arguments": broken}}
        messages = [NEW[0], {**NEW[1], "tool_calls": [call]}, NEW[2]]
        with suppress(InvalidMessages):
            assert template.render(messages, add_generation_prompt=True, tools=TOOLS)


def test_weights_choose_among_several_turns(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(family(FAMILIES["json in tags"][0]), tokenizer)
    messages = [NEW[0], {**NEW[1], "weight": 0}, NEW[2], {**NEW[3], "weight": 1}]
    assert learnt(template, messages) == ["Take an umbrella.<|im_end|>"]


def test_a_call_that_is_not_shown_is_refused_rather_than_silence_learnt(
    tokenizer: Tokenizer,
) -> None:
    only_first = family("{% if loop.first %}{{ c.function | tojson }}{% endif %}")
    template = ChatTemplate(only_first, tokenizer)
    two = [user("?"), assistant("", tool_calls=[CALL, CALL])]
    with pytest.raises(
        ChatTemplateError, match=r"messages\[1\].*'weather' 2 times, so that silence"
    ):
        template.tokenize_chat(two, TOOLS)
    assert learnt(template, NEW)
    # Some pass over the call where there is a text as well.
    no_text = family("{{ c.function | tojson if not m.content }}")
    template = ChatTemplate(no_text, tokenizer)
    assert learnt(template, NEW)
    with pytest.raises(ChatTemplateError, match="does not show the call of 'weather'"):
        template.tokenize_chat([user("?"), assistant("I look.", tool_calls=[CALL])], TOOLS)
    context = [{**two[1], "content": "I look.", "weight": 0}, user("?"), assistant("a")]
    assert learnt(template, [user("?"), *context]) == ["a<|im_end|>"]


def test_results_that_nothing_parts_from_their_call_are_refused(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(family("{{ c.function | tojson }}", end=""), tokenizer)
    with pytest.raises(ChatTemplateError, match="the result would be learnt with it"):
        template.tokenize_chat(NEW, TOOLS)
    assert "rains" not in "".join(learnt(template, NEW[:2]))


def test_a_stop_token_that_opens_the_result_is_learnt(tokenizer: Tokenizer) -> None:
    # As the family of GLM has it, with what ends generation at the head of the next message.
    source = (
        "{{ tools | tojson if tools }}{% for m in messages %}"
        "{% if m.role == 'tool' %}<|im_end|>{{ m.content }}\n{% else %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function | tojson }}{% endfor %}{% if not m.tool_calls %}<|im_end|>{% endif %}\n"
        "{% endif %}{% endfor %}" + _PROMPT
    )
    template = ChatTemplate(source, tokenizer)
    first, _ = learnt(template, NEW, None)
    assert first.endswith("}<|im_end|>")
    assert "rains" not in first


THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + _PROMPT
)  # fmt: skip


def test_reasoning_is_learnt_where_it_is_shown_and_refused_elsewhere(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(THINKS, tokenizer)
    thought = assistant("4", reasoning_content="2 and 2")
    assert learnt(template, [user("2+2"), thought], None) == [
        "<think>\n2 and 2\n</think>\n\n4<|im_end|>"
    ]
    with pytest.raises(ChatTemplateError, match=r"messages\[1\].reasoning_content: the chat"):
        template.tokenize_chat([user("2+2"), thought, user("3+3"), assistant("6")])
    earlier = [user("2+2"), {**thought, "weight": 0}, user("3+3"), assistant("6")]
    assert learnt(template, earlier, None) == ["6<|im_end|>"]
    plain = ChatTemplate(family(FAMILIES["json in tags"][0]), tokenizer)
    with pytest.raises(ChatTemplateError, match="reasoning_content"):
        plain.tokenize_chat([user("2+2"), thought])
    assert learnt(plain, [user("2+2"), assistant("4", reasoning_content=None)], None)
