"""Rows of two answers to one prompt, of which the first is the better one, as OpenAI has them.

`{"input": {"messages": [...], "tools": [...]}, "preferred_output": [...], "non_preferred_output": [...]}`
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

from text.chat_template import ChatTemplate, TokenizedExample
from text.messages import ChatTemplateError, normalise

from .chat import list_problems, message_problems, tool_problems, tools_of
from .row_format import Problem, Row, extra, missing, wrong_keys, wrong_value

OUTPUTS = ("preferred_output", "non_preferred_output")
_FORMER = {"preferred_completion": OUTPUTS[0], "non_preferred_completion": OUTPUTS[1]}
"""What OpenAI called the outputs at first."""
_KEYS = frozenset({"input", *OUTPUTS})
_INPUT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
_OUTPUT_ROLES = ("assistant", "tool", "function")


def claims(first_row: Row) -> bool:
    return bool(first_row.keys() & {*OUTPUTS, *_FORMER})


def problems(row: Row) -> Iterator[Problem]:
    row = _renamed(row)
    for key in ("input", *OUTPUTS):
        if key not in row:
            yield missing(key)
    yield from extra(row, _KEYS)
    yield from _input_problems(row["input"])
    for key in OUTPUTS:
        yield from _output_problems(row[key], key)
    preferred, other = (normalise(row[key], knows_developer=True) for key in OUTPUTS)
    if preferred == other:
        yield wrong_value(
            ": preferred_output and non_preferred_output are equal, which says nothing about what is better. "
            "Leave the example out, or give it two different answers.",
            "E117",
        )


def tokenize(row: Row, template: ChatTemplate) -> list[TokenizedExample]:
    row = _renamed(row)
    asked, tools = row["input"]["messages"], tools_of(row["input"])
    context = [{**message, "weight": 0} for message in asked]
    pair = [template.tokenize_chat([*context, *row[key]], tools) for key in OUTPUTS]
    prompts = [list(_prompt(each)) for each in pair]
    if prompts[0] != prompts[1]:
        raise ChatTemplateError(
            "the base's chat template shows the same input in two ways before the two outputs, so that they cannot "
            "be compared; leave the example out"
        )
    if pair[0] == pair[1]:
        raise ChatTemplateError(
            "preferred_output and non_preferred_output are equal as the base's chat template shows them; leave the "
            "example out, or give it two answers that differ in more than white space"
        )
    return pair


def _prompt(tokenized: TokenizedExample) -> Iterator[int]:
    pairs = zip(tokenized.input_ids, tokenized.weights, strict=True)
    return (token_id for token_id, _ in takewhile(lambda pair: not pair[1], pairs))


def _renamed(row: Row) -> Row:
    return {_FORMER.get(key, key): value for key, value in row.items()}


# The texts below go behind "Example 7".


def _input_problems(asked: Any) -> Iterator[Problem]:
    if not isinstance(asked, dict):
        yield wrong_value(
            ' input Input should be a valid dictionary: {"messages": [...]}, and "tools" where there are some'
        )
    if "messages" not in asked:
        yield wrong_keys(" input is missing key 'messages'.")
    for problem in extra(asked, _INPUT_KEYS):
        yield _at(", input", problem)
    yield from list_problems(asked["messages"], "input messages")
    for position, message in enumerate(asked["messages"], start=1):
        for problem in message_problems(message):
            yield _at(f", input message {position}", problem)
    for problem in tool_problems(asked):
        yield _at(", input", problem)


def _output_problems(output: Any, key: str) -> Iterator[Problem]:
    yield from list_problems(output, key)
    for position, message in enumerate(output, start=1):
        where = f", {key} message {position}"
        for problem in message_problems(message):
            yield _at(where, problem)
        if message["role"] not in _OUTPUT_ROLES:
            yield wrong_value(
                f"{where} is the {message['role']}'s; an output is what the assistant says, and what its tools "
                "answer in between. Move what comes before into input messages"
            )
        if message.get("weight") == 0:
            yield wrong_value(
                f"{where} has the weight 0, but all that the assistant says in an output is compared; "
                "leave the weight out",
                "E109",
            )
    for position, end in ((1, "begin"), (len(output), "end")):
        if output[position - 1]["role"] != "assistant":
            yield wrong_value(
                f", {key} message {position} is the {output[position - 1]['role']}'s; an output must {end} with a "
                "message of the assistant"
            )


def _at(where: str, problem: Problem) -> Problem:
    return replace(problem, text=where + problem.text)
