from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataset.conversion.recognise import recognise
from dataset.conversion.rows import Unmapped
from dataset.conversion.tables import NotConvertible, columns_of
from dataset.formats import chat, preference
from dataset.formats.row_format import problem_of
from tests.factories import jsonl

Row = dict[str, Any]


def converted(
    tmp_path: Path, content: bytes | str, name: str = "rows.jsonl", **options: Any
) -> list[Any]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = recognise(path, name, **options)
    assert found is not None
    rows = [
        (number, str(row) if isinstance(row, Unmapped) else row) for number, row in found.rows()
    ]
    for number, row in rows:
        if isinstance(row, dict):
            form = chat if "messages" in row else preference
            assert problem_of(row, number, form) is None
    return rows


def turn(asked: str, answered: str, *before: tuple[str, str]) -> Row:
    said = [*before, ("user", asked), ("assistant", answered)]
    return {"messages": [{"role": role, "content": text} for role, text in said]}


ALPACA = {"instruction": "Add.", "input": "1 and 1", "output": "2"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ALPACA, turn("Add.\n\n1 and 1", "2")),
        ({"instruction": "Sing.", "input": "", "output": "La"}, turn("Sing.", "La")),
        (
            {**ALPACA, "history": [["a", "b"]], "system": "S"},
            turn("Add.\n\n1 and 1", "2", ("system", "S"), ("user", "a"), ("assistant", "b")),
        ),
        (SHAREGPT, turn("Hi", "Hello")),
        ({**SHAREGPT, "system": "S"}, turn("Hi", "Hello", ("system", "S"))),
        ({"input": "a", "output": "b"}, turn("a", "b")),
        ({"question": "a", "answer": "b"}, turn("a", "b")),
        ({"prompt": "a", "response": "b"}, turn("a", "b")),
    ],
)
def test_rows_of_other_tools(tmp_path: Path, row: Row, expected: Row) -> None:
    assert converted(tmp_path, jsonl([row, row])) == [(1, expected), (2, expected)]
    array = json.dumps([row, row], indent=1)
    assert converted(tmp_path, array, "rows.json") == [(1, expected), (2, expected)]


def test_calls_of_tools(tmp_path: Path) -> None:
    call = {"name": "find", "arguments": {"city": "Oslo"}}
    said = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "12"},
        {"from": "gpt", "value": "12 degrees."},
    ]
    row = {"conversations": said, "tools": json.dumps([{"name": "find", "parameters": {}}])}
    ((_, found),) = converted(tmp_path, jsonl([row]))
    calling, result = found["messages"][1:3]
    assert calling["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"city": "Oslo"}'}
    assert result["tool_call_id"] == calling["tool_calls"][0]["id"]
    assert found["tools"] == [{"type": "function", "function": {"name": "find", "parameters": {}}}]


def test_preferences_of_trl(tmp_path: Path) -> None:
    asked, better, worse = (
        {"role": r, "content": c}
        for r, c in (("user", "a"), ("assistant", "b"), ("assistant", "c"))
    )
    expected = {
        "input": {"messages": [asked]},
        "preferred_output": [better],
        "non_preferred_output": [worse],
    }
    for row in (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"chosen": [asked, better], "rejected": [asked, worse]},
    ):
        assert converted(tmp_path, jsonl([row])) == [(1, expected)]


def test_prompts_and_completions_only_if_wanted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([{"prompt": "a", "completion": "b"}]))
    assert recognise(path, path.name) is None
    assert converted(tmp_path, path.read_bytes(), to_chat=True) == [(1, turn("a", "b"))]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**ALPACA, "output": ""}, "its answer is empty"),
        ({"instruction": "Add."}, 'it has no key "output"'),
        ({**ALPACA, "output": 2}, 'its "output" is no text'),
        ({**ALPACA, "history": "x"}, 'its "history" is no list of pairs'),
    ],
)
def test_what_cannot_be_mapped_is_told(tmp_path: Path, row: Row, why: str) -> None:
    assert converted(tmp_path, jsonl([ALPACA, row]))[1] == (2, why)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([{"from": "narrator", "value": "x"}], "message 1 is from 'narrator', which is no role that is known"),
        ([{"from": "human"}], "message 1 has no text"),
        ([{"from": "human", "value": "x"}], "the assistant says nothing in it"),
        ([{"from": "observation", "value": "x"}], "message 1 is the result of a call that is not there"),
        ([{"from": "function_call", "value": "x"}], 'message 1 is no call of a function: {"name": ..., "arguments": ...}'),
        ([], 'its "conversations" is no list of messages'),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_mapped(tmp_path: Path, said: Any, why: str) -> None:
    assert converted(tmp_path, jsonl([SHAREGPT, {"conversations": said}]))[1] == (2, why)


def test_keys_without_a_counterpart_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl([{**ALPACA, "source": "x"}, ALPACA]))
    found = recognise(path, path.name)
    assert found is not None
    assert len(list(found.rows())) == 2
    assert found.left_out == {"source": 1}


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("t.csv", "question,answer\na,b\nc,d\n", {}),
        ("t.csv", "\ufeffid;Prompt;Completion\n1;a;b\n2;c;d\n", {}),
        ("t.tsv", "text\tlabel\r\na\tb\r\nc\td\r\n", {}),
        ("t.csv", "x,y\na,b\nc,d\n", {"columns": columns_of("prompt=x,answer=y")}),
        ("t.csv", "a,b\nc,d\n", {"columns": columns_of("prompt=1,completion=2")}),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str, options: Any) -> None:
    rows = [row for _, row in converted(tmp_path, content, name, **options)]
    assert rows == [turn("a", "b"), turn("c", "d")]


def test_rows_of_a_table_are_told_by_their_first_line(tmp_path: Path) -> None:
    content = 'prompt,answer\n"two\nlines",b\nc\n"d",\n'
    assert converted(tmp_path, content, "t.csv") == [
        (2, turn("two\nlines", "b")),
        (4, "it has 1 cells instead of 2"),
        (5, "its answer is empty"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("t.csv", b"what,ever\na,b\n", "say which they are with --columns prompt=NAME,answer=NAME"),
        ("t.csv", b"prompt,answer\n\xe9t\xe9,b\n", "it is not in UTF-8; the file is probably in WINDOWS-1252"),
        ("t.jsonl", '{"messages": []}'.encode("utf-16"), "the file is in UTF-16; save it as UTF-8, for example by `iconv -f UTF-16"),
        ("t.csv", "prompt,answer\na,b".encode("utf-16-le"), "the file is in UTF-16LE"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, advice: str
) -> None:
    with pytest.raises(NotConvertible) as caught:
        converted(tmp_path, content, name)
    assert advice in str(caught.value)


def test_a_broken_array_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    content = json.dumps([ALPACA])[:-1] + ', {"instruction": '
    (first, second) = converted(tmp_path, content, "rows.json")
    assert first == (1, turn("Add.\n\n1 and 1", "2"))
    assert second[0] == 2
    assert second[1].startswith("it is no JSON, and nothing behind it is read")


@pytest.mark.parametrize(
    "text", ["prompt=a", "prompt=a,answer=", "a,b", "prompt=a,answer=b,other=c"]
)
def test_columns_that_are_not_said_right(text: str) -> None:
    with pytest.raises(NotConvertible, match="columns must read"):
        columns_of(text)
