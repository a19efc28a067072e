"""What answers are worth, by kind of task, against oracles where there are any."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.task_type import task_of
from grading.measures import json_values, measures, texts
from grading.measures.measure import Measure, ModelAnswer
from tests.factories import Json, chat_row

JSON_ROWS = [
    chat_row(
        f"Mail {n}",
        json.dumps(
            {"kind": ["a", "b"][n % 2], "sum": n / 4, "tags": [f"t{n}"], "note": f"note {n}"}
        ),
    )
    for n in range(40)
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)


def measure_of(rows: list[Json]) -> Measure:
    return measures.of_task(task_of(rows))


def primary(measure: Measure, answer: str, wanted: str) -> float:
    return measure.score(ModelAnswer(answer), ModelAnswer(wanted)).primary


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"kind": "a", "sum": 1, "tags": ["t"], "note": "x"}', 1),
        ('{ "tags":["t"],"note":"x", "sum":1.0,"kind":"a" }', 1),
        ('```json\n{"kind": "a", "sum": 1, "tags": ["t"], "note": "x"}\n```', 1),
        ('{"kind": "a", "sum": true, "tags": ["t"], "note": "x"}', 0),
        ('{"kind": "a", "sum": 1, "tags": ["t"]}', 0),
        ('{"kind": "a", "sum": 1, "tags": ["t"], "note": "x", "more": 1}', 0),
        ('Sure: {"kind": "a", "sum": 1, "tags": ["t"], "note": "x"}', 0),
        ("", 0),
        ("NaN", 0),
        ("[" * 5000, 0),
    ],
)
def test_json_is_right_when_all_of_it_is(answer: str, right: int) -> None:
    wanted = '{"kind": "a", "sum": 1, "tags": ["t"], "note": "x"}'

    assert primary(measure_of(JSON_ROWS), answer, wanted) == right


def test_fields_are_measured_by_what_they_hold() -> None:
    wanted = ModelAnswer('{"kind": "a", "sum": 1.0, "tags": ["x", "y"], "note": "abcd"}')
    answer = ModelAnswer('{"kind": "b", "sum": 1.0000000001, "tags": ["y", "z"], "note": "abcx"}')

    score = measure_of(JSON_ROWS).score(answer, wanted)

    assert score.parts == {"kind": 0, "sum": 1, "tags": 0.5, "note": 0.75}
    assert score.also == {"valid JSON": 1, "right keys": 1}


@settings(max_examples=40)
@given(VALUES, VALUES)
def test_values_are_the_same_where_their_json_says_so(a: Any, b: Any) -> None:
    def plain(value: Any) -> Any:
        """As text of one form: 1 and 1.0 are one number, and true is none."""
        if json_values.is_number(value):
            return ["number", float(value)]
        if isinstance(value, list):
            return ["list", *map(plain, value)]
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [type(value).__name__, value]

    def text(value: Any) -> str:
        return json.dumps(plain(value), sort_keys=True).replace("-0.0", "0.0")

    assert json_values.same(a, b) == (text(a) == text(b))
    assert json_values.same(a, a)


@pytest.mark.parametrize(
    ("found", "wanted", "f1"),
    [([], [], 1), ([1], [], 0), ([1, 2], [2, 1], 1), ([1, 1], [1], 2 / 3), ([True], [1], 0)],
)
def test_lists_are_compared_whatever_their_order(found: Any, wanted: Any, f1: float) -> None:
    assert json_values.set_f1(found, wanted) == pytest.approx(f1)


LABELS = ["delivery", "billing", "defect"]


def test_classes_are_right_or_wrong_and_have_an_f1_together() -> None:
    measure = measure_of([chat_row(f"Mail {n}", LABELS[n % 3]) for n in range(60)])
    wanted = [LABELS[n % 3] for n in range(9)]
    found = ["delivery", "billing", "billing", " delivery\n", "?", *wanted[5:]]
    pairs = [(ModelAnswer(a), ModelAnswer(b)) for a, b in zip(found, wanted, strict=True)]

    scores = [measure.score(answer, want) for answer, want in pairs]
    together = measure.together(pairs)

    assert [score.primary for score in scores] == [1, 1, 0, 1, 0, 1, 1, 1, 1]
    assert scores[2].parts == {"defect": 0}
    # delivery 3/3 of 3, billing 2 of 3 with 1 too many, defect 2 of 3, "?" never right.
    by_hand = [1.0, 2 * 2 / (3 + 3), 2 * 2 / (2 + 3), 0.0]
    assert together["macro-F1"] == pytest.approx(sum(by_hand) / 4)
    assert {"wanted": "billing", "answered": "?", "rows": 1} in together["confusions"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("42", 42), ("-1.5", -1.5), (" 1,234.50 ", 1234.5), ("3e2", 300), ("12 %", 12)),
        *(("7.", 7), (".5", 0.5), ("", None), ("seven", None), ("1 to 2", None), ("1e999", None)),
    ],
)
def test_numbers_are_read_as_they_are_written(text: str, value: float | None) -> None:
    assert texts.number(text) == value


def test_numbers_are_right_when_they_are_the_same() -> None:
    measure = measure_of([chat_row(f"Add {n}", str(n * 17)) for n in range(30)])

    assert measure.primary == "the same number"
    assert primary(measure, "1,000", "1000.0") == 1
    assert primary(measure, "1001", "1000") == 0
    together = measure.together(
        [(ModelAnswer("1001"), ModelAnswer("1000")), (ModelAnswer("?"), ModelAnswer("5"))]
    )
    assert together == {"mean absolute error": 1.0, "median relative error": 0.001}


def test_excerpts_are_right_when_their_words_are() -> None:
    rows = [chat_row(f"The name is Number {n} of many.", f"Number {n}") for n in range(30)]
    measure = measure_of(rows)

    assert primary(measure, '"number 7".', "Number 7") == 1
    score = measure.score(ModelAnswer("Number 7 of"), ModelAnswer("Number 7"))
    assert score.primary == 0
    assert score.also["token F1"] == pytest.approx(0.8)


def call(name: str, arguments: str) -> Json:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("calls", "right", "parts"),
    [
        ([call("find", '{"n":1.0,"city":"Oslo"}')], 1, {"find.city": 1, "find.n": 1}),
        ([call("find", '{"city":"Bergen","n":1}')], 0, {"find.city": 0, "find.n": 1}),
        ([call("seek", '{"city":"Oslo","n":1}')], 0, {"find.city": 0, "find.n": 0}),
        ([call("find", "{broken")], 0, {"find.city": 0, "find.n": 0}),
        ([], 0, {"find.city": 0, "find.n": 0}),
    ],
)
def test_calls_are_right_when_names_and_arguments_are(
    calls: list[Json], right: int, parts: dict[str, float]
) -> None:
    wanted = call("find", '{"city": "Oslo", "n": 1}')
    said = {"role": "assistant", "content": None, "tool_calls": [wanted]}
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}, said]} for n in range(10)]
    measure = measure_of(rows)

    score = measure.score(ModelAnswer("", calls), ModelAnswer("", [wanted]))

    assert (score.primary, score.parts) == (right, parts)


def plain_chrf(text: str, wanted: str) -> float:
    """By the definition, n-grams written out."""
    a, b = text.replace(" ", ""), wanted.replace(" ", "")
    precisions, recalls = [], []
    for n in range(1, 7):
        mine = Counter(a[i : i + n] for i in range(len(a) - n + 1))
        theirs = Counter(b[i : i + n] for i in range(len(b) - n + 1))
        if mine and theirs:
            common = sum(min(mine[gram], theirs[gram]) for gram in mine)
            precisions.append(common / sum(mine.values()))
            recalls.append(common / sum(theirs.values()))
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 5 * p * r / (4 * p + r) if p and r else 0.0


@settings(max_examples=40)
@given(st.text("abc ", min_size=1, max_size=12), st.text("abc ", min_size=1, max_size=12))
def test_chrf_is_what_its_definition_says(text: str, wanted: str) -> None:
    if not text.strip() or not wanted.strip():
        assert texts.chrf(text, wanted) == float(text.split() == wanted.split())
        return
    assert texts.chrf(text, wanted) == pytest.approx(plain_chrf(text, wanted))
    assert texts.chrf(text, text) == pytest.approx(1)


def test_code_is_compared_by_edits_and_by_whether_it_parses() -> None:
    rows = [
        chat_row(f"Add {n}", f"```python\ndef f(x):\n    return x + {n}\n```") for n in range(10)
    ]
    measure = measure_of(rows)
    wanted = ModelAnswer("```python\ndef f(x):\n    return x + 1\n```")

    same = measure.score(ModelAnswer("def f(x):\n    return x + 1"), wanted)
    broken = measure.score(ModelAnswer("def f(x:\n    return x + 1"), wanted)

    assert (same.primary, same.also["parses as Python"]) == (1, 1)
    assert 0.9 < broken.primary < 1
    assert broken.also["parses as Python"] == 0


@pytest.mark.parametrize("kind", sorted(measures.KINDS))
@settings(max_examples=15)
@given(answer=st.text(max_size=40))
def test_nothing_that_a_model_writes_breaks_a_measure(kind: str, answer: str) -> None:
    measure = measures.KINDS[kind]()
    pairs = [
        (ModelAnswer(answer), ModelAnswer("12")),
        (ModelAnswer("x" * 9_000), ModelAnswer(answer)),
    ]

    for found, wanted in pairs:
        score = measure.score(found, wanted)
        assert 0 <= score.primary <= 1
        assert all(0 <= value <= 1 for value in (*score.also.values(), *score.parts.values()))
    measure.together(pairs)
