"""Each form of calls against templates that have it: found, learnt, shown, and read back."""

from __future__ import annotations

import itertools
import json
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer
from text.tools import own_form
from text.tools.deltas import CallDelta, ContentDelta
from text.tools.grammar import ANY_ARGUMENTS, NO_ARGUMENTS, CallableFunction
from text.tools.json_calls import JsonCalls
from text.tools.named_calls import NamedCalls
from text.tools.python_calls import PythonCalls
from text.tools.tagged_calls import TaggedCalls

from .templates import ALTERNATES, NO_TOOLS, TOOLS_KNOWN

JSON: dict[str, Any] = {"city": "Oslo", "days": [1, 2], "note": 'say "hi"\n</tool_call>'}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "array", "items": {"type": "integer"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {}}}
    for name in ("weather", "tide")
]
IM_END = 258
SPECIAL = ("<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[AVAILABLE_TOOLS]")


@pytest.fixture(scope="module")
def definition(base_path: Path) -> str:
    """The tokenizer of tiny-random with words of other families as special tokens."""
    parsed = json.loads((base_path / "tokenizer.json").read_text())
    (token, *_) = parsed["added_tokens"]
    for number, word in enumerate(SPECIAL, start=IM_END + 1):
        parsed["added_tokens"].append({**token, "id": number, "content": word})
    return json.dumps(parsed)


@pytest.fixture(scope="module")
def special(definition: str) -> Tokenizer:
    names = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    return Tokenizer(definition, names=names, eos_ids=frozenset())


@pytest.fixture(scope="module")
def vocabulary(definition: str) -> LLTokenizer:
    return LLTokenizer(definition, n_vocab=IM_END + 1 + len(SPECIAL), eos_token=[IM_END])


def call(number: int, name: str, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_0123456789abcdef{number}", "type": "function", "function": function}


def chat(*names: str, text: str = "") -> list[dict[str, Any]]:
    calls = [call(i, name, JSON if name == "weather" else {}) for i, name in enumerate(names)]
    results = [
        {"role": "tool", "tool_call_id": each["id"], "content": f"result {i}"}
        for i, each in enumerate(calls)
    ]
    return [
        {"role": "user", "content": "Is it nice?"},
        {"role": "assistant", "content": text or None, "tool_calls": calls},
        *results,
        {"role": "assistant", "content": "It is."},
    ]


def learnt(template: ChatTemplate, messages: list[dict[str, Any]]) -> list[list[int]]:
    example = template.tokenize_chat(messages, TOOLS)
    pairs = zip(example.input_ids, example.weights, strict=True)
    return [[i for i, _ in span] for weight, span in groupby(pairs, lambda p: p[1]) if weight]


def said(template: ChatTemplate, ids: list[int]) -> tuple[str, list[tuple[str, Any]]]:
    """What a reader makes of generated tokens: content, and calls."""
    dialect = template.dialect
    reader = dialect.reader({"weather": PARAMETERS, "tide": {}})
    stream = template.tokenizer.decode_stream([], shown_ids=dialect.read_ids(with_calls=True))
    texts = [stream.step(i) or "" for i in ids if i not in template.tokenizer.stop_ids]
    deltas = [d for text in [*texts, stream.flush()] for d in reader.push(text)]
    content, calls = "", list[tuple[str, str]]()
    for delta in [*deltas, *reader.finish()]:
        match delta:
            case ContentDelta(text):
                content += text
            case CallDelta(_, str(name), arguments):
                calls.append((name, arguments))
            case CallDelta(index, None, arguments):
                calls[index] = (calls[index][0], calls[index][1] + arguments)
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def accepts(
    vocabulary: LLTokenizer, template: ChatTemplate, ids: list[int], **options: Any
) -> bool:
    """Whether a reply may be so by the grammar of a request that offers both tools."""
    functions = [
        CallableFunction("weather", PARAMETERS),
        CallableFunction("tide", NO_ARGUMENTS),
    ]
    grammar = template.dialect.reply_grammar.of(functions, **options)
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.get_error(), matcher.get_error()
    said = [i for i in ids if i != IM_END]
    return matcher.try_consume_tokens(said) == len(said) and matcher.is_accepting()


@pytest.mark.parametrize("name", [*TOOLS_KNOWN, *NO_TOOLS])
def test_grammars_hold_replies_to_what_is_learnt(
    special: Tokenizer, vocabulary: LLTokenizer, name: str
) -> None:
    known = TOOLS_KNOWN.get(name)
    template = ChatTemplate(known.source if known else NO_TOOLS[name], special)
    is_accepted = partial(accepts, vocabulary, template)
    several = [("weather", "tide")] if known is None or known.has_several else []
    for names in [("weather",), ("tide",), *several]:
        call, answer = learnt(template, chat(*names))
        for is_parallel, must_call in itertools.product((True, False), repeat=2):
            options = {"is_parallel": is_parallel, "must_call": must_call}
            assert is_accepted(call, **options) is (is_parallel or len(names) == 1)
            assert is_accepted(answer, **options) is not must_call
    other = chat("weather")
    other[1]["tool_calls"][0]["function"] = {"name": "tide", "arguments": '{"a": 1}'}
    call, _ = learnt(template, other)
    for must_call in (True, False):
        assert not is_accepted(call, is_parallel=True, must_call=must_call)
    grammar = template.dialect.reply_grammar.of(
        [CallableFunction("weather", ANY_ARGUMENTS)], must_call=True, is_parallel=True
    )
    assert not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar), vocabulary)
    held = {"is_parallel": True, "must_call": False, "content": '"{}"'}
    assert is_accepted([*b"{}"], **held)
    assert not is_accepted(answer, **held)


@pytest.mark.parametrize("name", [*TOOLS_KNOWN, *NO_TOOLS])
def test_what_is_learnt_is_read_back(special: Tokenizer, name: str) -> None:
    known = TOOLS_KNOWN.get(name)
    template = ChatTemplate(known.source if known else NO_TOOLS[name], special)
    assert (template.dialect.own_form is None) is (known is not None)
    assert template.dialect.tool_format == (known.form if known else own_form.FORMAT)
    chats: list[tuple[tuple[str, ...], str]] = [(("weather",), ""), (("tide",), "")]
    if known is None or known.has_several:
        chats += [(("weather", "tide"), ""), (("weather",), "Let me see.")]
    for names, text in chats:
        messages = chat(*names, text=text)
        turn, answer = learnt(template, messages)
        expected = [(each, JSON if each == "weather" else {}) for each in names]
        assert said(template, turn) == (text, expected)
        assert said(template, answer) == ("It is.", [])
        # Serving shows the call and its results as training does, and tools before both.
        example = template.tokenize_chat(messages, TOOLS).input_ids
        for end in (1, len(messages) - 1):
            prompt = template.render(messages[:end], tools=TOOLS, add_generation_prompt=True)
            assert example[: len(prompt)] == prompt
        text = special.decode(prompt, skip_special=False)
        assert text.count('"description": "d"') == 2
        assert all(text.count(f"result {i}") == 1 for i in range(len(names)))


def test_the_forms_are_of_all_kinds() -> None:
    forms = {type(known.form) for known in TOOLS_KNOWN.values()}
    assert forms == {JsonCalls, NamedCalls, PythonCalls, TaggedCalls}


def test_a_template_that_wants_turns_gets_turns(special: Tokenizer) -> None:
    template = ChatTemplate(ALTERNATES, special)
    messages = chat("weather", "tide")
    text = special.decode(
        template.render(messages[:-1], tools=TOOLS, add_generation_prompt=True), skip_special=False
    )
    first, answers = text.split("<|im_start|>user\n")[1:]
    assert first.startswith("# Tools")
    assert first.partition("<|im_end|>")[0].endswith("Is it nice?")
    assert answers.startswith(
        "<tool_response>\nresult 0\n</tool_response>\n<tool_response>\nresult 1\n</tool_response><|im_end|>"
    )


def test_a_system_s_words_stand_before_the_tools(special: Tokenizer) -> None:
    template = ChatTemplate(NO_TOOLS["chatml"], special)
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "u"}]
        text = special.decode(
            template.render(messages, tools=TOOLS, add_generation_prompt=True), skip_special=False
        )
        assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
        assert text.endswith(
            "</tool_call><|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
        )


def test_special_tokens_that_no_call_needs_stay_hidden(special: Tokenizer) -> None:
    template = ChatTemplate(NO_TOOLS["chatml"], special)
    assert template.dialect.read_ids(with_calls=True) == frozenset()
    mistral = ChatTemplate(TOOLS_KNOWN["mistral 7b v0.3"].source, special)
    shown = mistral.dialect.read_ids(with_calls=True)
    assert shown == {special.special_tokens["[TOOL_CALLS]"]}
    assert mistral.dialect.read_ids(with_calls=False) == frozenset()
