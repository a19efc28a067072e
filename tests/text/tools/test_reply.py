"""Generated text taken apart: into what, and that it does not matter how the text was cut."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text.tools import own_form
from text.tools.deltas import CallDelta, ContentDelta, ReasoningDelta, ReplyDelta
from text.tools.formats import ToolFormat
from text.tools.json_calls import JsonCalls
from text.tools.named_calls import NamedCalls
from text.tools.python_calls import PythonCalls
from text.tools.reply import Reasoning, ReplyReader
from text.tools.tagged_calls import TaggedCalls

TAGS = own_form.FORMAT
BARE = JsonCalls(("<|python_tag|>",), "", is_bare=True, arguments_key="parameters")
LIST = JsonCalls(("[TOOL_CALLS]",), "", is_list=True)
ARGS = NamedCalls(("[TOOL_CALLS]",), ("[ARGS]",), "[TOOL_CALLS]", "")
WITH_ID = NamedCalls(("[TOOL_CALLS]",), ("[CALL_ID]", "[ARGS]"), "[TOOL_CALLS]", "")
PYTHON = PythonCalls((), "")
TAGGED = TaggedCalls(
    ("<tool_call>\n<function=",),
    ">",
    "<parameter=",
    ">",
    "</parameter>",
    again="",
    closing="</function>\n</tool_call>",
    value_begin=">\n",
    value_end="\n</parameter>\n",
)
THINK = Reasoning("<think>", "</think>")
BEGUN = Reasoning("<think>", "</think>", is_begun=True)

Reply = tuple[str, str, list[tuple[str, str]]]
"""Thoughts, content, calls."""


def summed(deltas: list[ReplyDelta]) -> Reply:
    thoughts = content = ""
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        match delta:
            case ReasoningDelta(text):
                thoughts += text
            case ContentDelta(text):
                content += text
            case CallDelta(index, str(name), arguments):
                assert index == len(calls)
                calls.append((name, arguments))
            case CallDelta(index, None, arguments):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + arguments)
    return thoughts, content, calls


def read(
    tool_format: ToolFormat | None,
    pieces: list[str],
    *,
    reasoning: Reasoning | None = None,
    **options: Any,
) -> Reply:
    reader = ReplyReader(tool_format, {"f": {}, "get-it": {}}, reasoning=reasoning, **options)
    deltas = [delta for piece in pieces for delta in reader.push(piece)]
    return summed([*deltas, *reader.finish()])


F = '{"name": "f", "arguments": {"a": [1, "}]"]}}'
ARGUMENTS = '{"a": [1, "}]"]}'
PARAMETER = "<parameter=a>\nx\n<b>\n</parameter>\n"
CASES: list[tuple[ToolFormat, str, str, list[tuple[str, str]]]] = [
    (TAGS, "Hello <b>!\n", "Hello <b>!\n", []),
    (TAGS, f"<tool_call>\n{F}\n</tool_call>", "", [("f", ARGUMENTS)]),
    (TAGS, f"Let me.\n<tool_call>{F}</tool_call>\n", "Let me.", [("f", ARGUMENTS)]),
    (TAGS, f"<tool_call>{F}</tool_call>\n<tool_call>{F}</tool_call>", "", [("f", ARGUMENTS)] * 2),
    (TAGS, f"<tool_call>{F}{F}</tool_call> Done.", "Done.", [("f", ARGUMENTS)] * 2),
    (TAGS, f"<tool_call>[{F}, {F}]</tool_call>", "", [("f", ARGUMENTS)] * 2),
    (TAGS, f"<tool_call>{F}", "", [("f", ARGUMENTS)]),
    # Other orders, and what OpenAI writes on the wire.
    (TAGS, '<tool_call>{"arguments": {"a": 1}, "name": "get-it"}</tool_call>', "", [("get-it", '{"a": 1}')]),
    (TAGS, '<tool_call>{"name": "f", "arguments": "{\\"a\\": \\"\\u00fc\\"}"}</tool_call>', "", [("f", '{"a": "ü"}')]),
    (TAGS, '<tool_call>{"id": "1", "function": {"name": "f", "arguments": {}}, "type": "x"}</tool_call>', "", [("f", "{}")]),
    (TAGS, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
    (TAGS, '<tool_call>{"name": "f", "arguments": null}</tool_call>', "", [("f", "{}")]),
    # What is no call of what is on offer stays text.
    (TAGS, '<tool_call>{"name": "g", "arguments": {}}</tool_call>', '<tool_call>{"name": "g", "arguments": {}}</tool_call>', []),
    (TAGS, f"<tool_call><tool_call>{F}</tool_call>", "<tool_call>", [("f", ARGUMENTS)]),
    (TAGS, "<tool_call>{'name': 'f'}", "<tool_call>{'name': 'f'}", []),
    (TAGS, '<tool_call>{"name": "f", "arguments": 7}', '<tool_call>{"name": "f", "arguments": 7}', []),
    (TAGS, '<tool_call>{"name": "f', '<tool_call>{"name": "f', []),
    (TAGS, "a <tool", "a <tool", []),
    (TAGS, F, F, []),
    # Its arguments are as the model wrote them, also where it was cut off.
    (TAGS, '<tool_call>{"name": "f", "arguments": {"a": "x', "", [("f", '{"a": "x')]),
    (TAGS, '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call> So.', "So.", [("f", '{"a": 1')]),
    (TAGS, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', "", [("f", '{"a": 1}')]),
    (BARE, '{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
    (BARE, '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}', "", [("f", "{}")] * 2),
    (BARE, '{"name": "Ada", "parameters": {}}', '{"name": "Ada", "parameters": {}}', []),
    (BARE, '{"name": "f"}', '{"name": "f"}', []),
    (BARE, '{"a": 1}', '{"a": 1}', []),
    (BARE, 'So: {"name": "f", "parameters": {}}', 'So: {"name": "f", "parameters": {}}', []),
    (LIST, f"[TOOL_CALLS] [{F}, {F}]", "", [("f", ARGUMENTS)] * 2),
    (LIST, "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    (ARGS, 'Yes.[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]get-it[ARGS]{}', "Yes.", [("f", '{"a": 1}'), ("get-it", "{}")]),
    (ARGS, "[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]g[ARGS]{}", []),
    (WITH_ID, "[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{}", "", [("f", "{}")]),
    (PYTHON, "[f(a='x)', b=[true, None]), get-it()]", "", [("f", '{"a": "x)", "b": [true, null]}'), ("get-it", "{}")]),
    (PYTHON, "[f(1)]", "[f(1)]", []),
    (PYTHON, "[f(a=__import__('os'))]", "[f(a=__import__('os'))]", []),
    (TAGGED, f"<tool_call>\n<function=f>\n{PARAMETER}</function>\n</tool_call> Ok", "Ok", [("f", '{"a": "x\\n<b>"}')]),
    (TAGGED, "<tool_call>\n<function=f></function></tool_call><tool_call>\n<function=get-it>", "", [("f", "{}"), ("get-it", "{}")]),
    (TAGGED, f"<tool_call>\n<function=f>{PARAMETER}<parameter=b>x", "", [("f", '{"a": "x\\n<b>"')]),
    (TAGGED, "<tool_call>\n<function=f>\n<parameter=n>\nTrue\n</parameter>", "", [("f", '{"n": true}')]),
    (TAGGED, "<tool_call>\n<function=g>\n</function>", "<tool_call>\n<function=g>\n</function>", []),
    (PYTHON, "[g()] and [f(", "[g()] and [f(", []),
]  # fmt: skip


@pytest.mark.parametrize(("tool_format", "text", "content", "calls"), CASES)
def test_what_a_reply_says(
    tool_format: ToolFormat, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    expected = ("", content, calls)
    assert read(tool_format, [text]) == expected
    assert read(tool_format, list(text)) == expected


FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "\n<function=", "</function>", "<parameter=", "</parameter>", ">", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>"),
    *('{"name": "f", "arguments": ', '{"a": "\\"é"}', '"name"', ": ", '"g"', "{", "}", "[", "]", ",", '"', "\\", "'"),
    *("f", "f(a=", ")", "x", " ", "\n", "<", F, f"<tool_call>\n{F}\n</tool_call>"),
]  # fmt: skip


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.lists(st.integers(0, 200), max_size=8),
    st.sampled_from([TAGS, BARE, LIST, ARGS, WITH_ID, PYTHON, TAGGED, None]),
    st.sampled_from([None, THINK, BEGUN]),
    st.booleans(),
)
def test_it_does_not_matter_where_the_text_is_cut(
    text: str,
    cuts: list[int],
    tool_format: ToolFormat | None,
    reasoning: Reasoning | None,
    is_parallel: bool,
) -> None:
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    whole, cut, single = (
        read(tool_format, each, reasoning=reasoning, is_parallel=is_parallel)
        for each in ([text], pieces, list(text))
    )
    assert cut == whole
    assert single == whole
    if reasoning is None and not whole[2]:
        # Nothing is lost.
        assert whole[1] == text


@pytest.mark.parametrize(
    ("reasoning", "text", "thoughts", "content"),
    [
        (THINK, "<think>\n2 and 2\n</think>\n\n4", "2 and 2", "4"),
        (THINK, "\n4 <think>", "", "\n4 <think>"),
        (THINK, "<think>\n\n</think>\n\n4", "", "4"),
        (THINK, "<think>a < b </thin", "a < b </thin", ""),
        (BEGUN, "2 and 2\n</think>\n\n4", "2 and 2", "4"),
        (BEGUN, "<think>\n2 and 2\n</think>\n\n4", "2 and 2", "4"),
        (BEGUN, "\n</think>\n4", "", "4"),
    ],
)
def test_thoughts_are_what_stands_before_the_answer(
    reasoning: Reasoning, text: str, thoughts: str, content: str
) -> None:
    for pieces in ([text], list(text)):
        assert read(None, pieces, reasoning=reasoning) == (thoughts, content, [])
        assert read(TAGS, pieces, reasoning=reasoning) == (thoughts, content, [])


def test_calls_in_thoughts_are_thoughts() -> None:
    call = f"<tool_call>{F}</tool_call>"
    thoughts, content, calls = read(TAGS, [f"<think>{call}</think>{call}"], reasoning=THINK)
    assert (thoughts, content, calls) == (call, "", [("f", ARGUMENTS)])


def test_one_call_is_all_where_they_may_not_be_parallel() -> None:
    call = f"<tool_call>{F}</tool_call>"
    for text in (
        f"Well. {call}{call}",
        f"Well. <tool_call>[{F},{F}]</tool_call>",
        f"Well. {call} So.",
    ):
        assert read(TAGS, [text], is_parallel=False) == ("", "Well.", [("f", ARGUMENTS)])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "null", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "anyOf", "enum", "properties"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["x", "1", "null", "[1"]))
def test_whatever_the_parameters_are_arguments_are_json(schema: Any, value: str) -> None:
    """Nobody checks the schemas of tools that a model may call as it likes."""
    offered = {"f": {"properties": {"a": schema}}, "g": schema}
    reader = ReplyReader(TAGGED, offered)
    told: list[ReplyDelta] = []
    for name in offered:
        text = f"<tool_call>\n<function={name}>\n<parameter=a>\n{value}\n</parameter>\n</function>"
        told += reader.push(f"{text}\n</tool_call>")
    for name, arguments in summed([*told, *reader.finish()])[2]:
        assert name in offered
        assert json.loads(arguments).keys() == {"a"}


def test_calls_are_told_as_they_come() -> None:
    reader = ReplyReader(TAGS, {"f": {}})
    assert reader.push('<tool_call>\n{"name": "f') == []
    assert reader.push('", "arguments": {"city": "Os') == [
        CallDelta(0, "f", ""),
        CallDelta(0, None, '{"city": "Os'),
    ]
    assert reader.push("lo") == [CallDelta(0, None, "lo")]
    assert reader.push('"}}\n') == [CallDelta(0, None, '"}')]
    assert reader.push("</tool_call>") == []
    assert reader.finish() == []


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        *((TAGS, text) for text in ("<", "<tool_call>", '<tool_call>{"x": "', " ", '<tool_call>{"name":"f","arguments":[')),
        (BARE, "{"),
        (LIST, "[TOOL_CALLS]["),
        (ARGS, "[TOOL_CALLS]f"),
        (PYTHON, "[f(a=["),
        (TAGGED, "<tool_call>\n<function=f><parameter=a>"),
    ],
)  # fmt: skip
def test_the_time_is_linear_in_the_text(tool_format: ToolFormat, text: str) -> None:
    def cost_s(num_chars: int) -> float:
        pieces = [text] * (num_chars // len(text))
        best = float("inf")
        for _ in range(2):
            started = time.process_time()
            read(tool_format, pieces)
            best = min(best, time.process_time() - started)
        return best

    # Quadratic time would be 64 times as much.
    assert cost_s(12_000) < 24 * max(cost_s(1_500), 1e-3)
