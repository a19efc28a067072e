from __future__ import annotations

import json
from typing import Any

import pytest

from dataset.languages import language_of
from dataset.task_type import MAX_ROWS_KEPT, LastTurn, TaskTypeCollector, last_turn, task_of
from tests.test_import_laws import HOUSE

MAIL = "Parcel {} never came, I would like to have my money back please."


def chats(answers: list[str], prompt: str = MAIL) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": prompt.format(i)},
                {"role": "assistant", "content": answer},
            ]
        }
        for i, answer in enumerate(answers)
    ]


def example(name: str) -> list[dict[str, Any]]:
    lines = (HOUSE / "examples" / name / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


TICKETS = [json.dumps({"n": i, "kind": "ab"[i % 2], "tags": [i]}) for i in range(40)]
SENTENCES = [f"I am sorry to hear that, the {word} is on its way to you." for word in "abcdefghij"]
GERMAN = "Das Paket Nummer {} ist leider nie angekommen, ich hätte gern mein Geld zurück."
CODE = ["```python\nprint({})\n```", "def answer_{0}():\n    return {0}", "x_{0} = len('a')"]


@pytest.mark.parametrize(
    ("expected", "rows"),
    [
        ("json", example("support_mails")),
        ("class", example("mail_categories")),
        ("json", chats(TICKETS)),
        ("json", chats([f"```json\n{ticket}\n```" for ticket in TICKETS])),
        ("class", chats(["billing", "return", "return", "other"] * 10)),
        ("number", chats([f"{i}.5" for i in range(40)])),
        ("extract", chats([f"Parcel {i}" for i in range(40)])),
        ("code", chats([CODE[i % 3].format(i) for i in range(40)])),
        ("rewrite", chats([GERMAN.format(i) for i in range(40)])),
        ("rewrite", chats([f"Parcel {i} never came; I would like my money back please" for i in range(40)])),
        ("chat", chats(SENTENCES)),
        # Words alone are programs to Python.
        ("chat", chats([f"w{i}" for i in range(40)])),
        ("chat", []),
        ("number", [{"prompt": "1+1=", "completion": f" {i}"} for i in range(40)]),
        ("class", [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]),
        ("chat", [{"text": "once upon a time"}] * 10),
    ],
)  # fmt: skip
def test_the_type_of_a_file(expected: str, rows: list[dict[str, Any]]) -> None:
    assert task_of(rows).type == expected


def test_calls_of_tools() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = chats([""] * 10)
    for row in rows:
        row["messages"][-1] = {"role": "assistant", "tool_calls": [call]}
    assert task_of(rows).type == "tools"


def test_the_better_answer_of_a_preference_is_its_last_turn() -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "1+1"}]},
        "preferred_output": [{"role": "assistant", "content": [{"type": "text", "text": "2"}]}],
        "non_preferred_output": [{"role": "assistant", "content": "3"}],
    }
    assert last_turn(row) == LastTurn("1+1", "2")


def test_fields_of_json_answers() -> None:
    task = task_of(chats(TICKETS))
    assert {key: field.kind for key, field in task.fields.items()} == {
        "n": "number",
        "kind": "closed",
        "tags": "list",
    }
    assert set(task.fields["kind"].values) == {'"a"', '"b"'}
    fields = task_of(example("support_mails")).fields
    assert list(fields) == ["category", "product", "urgent", "refund"]
    assert {field.kind for field in fields.values()} == {"closed"}
    assert len(fields["category"].values) == 6


def test_labels_are_counted_and_fences_noted() -> None:
    assert task_of(chats(["b", "a", "a", "b", "a"] * 4)).labels == {"a": 12, "b": 8}
    assert task_of(chats([f"```json\n{t}\n```" for t in TICKETS])).fenced_share == 1


def test_a_long_file_is_drawn_from_evenly() -> None:
    collector = TaskTypeCollector()
    for i in range(3 * MAX_ROWS_KEPT):
        collector.add(LastTurn("q", "yes" if i < 2 * MAX_ROWS_KEPT else "no"))
    task = collector.result()
    assert task.num_rows == 3 * MAX_ROWS_KEPT
    assert task.labels["yes"] + task.labels["no"] == MAX_ROWS_KEPT
    assert 0.6 < task.labels["yes"] / MAX_ROWS_KEPT < 0.74


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The parcel that was sent to me last week has not arrived yet.", "en"),
        ("Das Paket, das letzte Woche verschickt wurde, ist noch nicht da.", "de"),
        ("El paquete que se envió la semana pasada todavía no ha llegado.", "es"),
        ("Too short", None),
        ("1234 5678 " * 20, None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    assert language_of(text) == language
