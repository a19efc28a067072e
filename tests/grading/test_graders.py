from __future__ import annotations

from typing import Any

import pytest

from grading import graders
from grading.graders import InvalidGrader, MultiGrader

CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "a", "operation": "eq"}
SCORE = {
    "type": "score_model",
    "name": "s",
    "model": "m",
    "input": [{"role": "user", "content": "x"}],
}
LABEL = SCORE | {"type": "label_model", "labels": ["a", "b"], "passing_labels": ["a"]}
SIMILAR = {
    **{"type": "text_similarity", "name": "t", "input": "a", "reference": "a"},
    "evaluation_metric": "bleu",
}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}


def multi(parts: Any, formula: str = "c") -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": parts, "calculate_output": formula}


def where_wrong(value: object) -> tuple[int | str, ...]:
    with pytest.raises(InvalidGrader) as caught:
        graders.parse(value)
    loc: tuple[int | str, ...] = caught.value.details["loc"]
    assert loc[0] == "grader"
    return loc[1:]


@pytest.mark.parametrize("value", [CHECK, SCORE, LABEL, SIMILAR, PYTHON])
def test_a_grader_of_each_type_is_read(value: dict[str, Any]) -> None:
    assert graders.parse(value).type == value["type"]


@pytest.mark.parametrize(
    ("parts", "keys"),
    [({"x": CHECK, "y": SIMILAR}, ["x", "y"]), ([CHECK, SIMILAR], ["c", "t"]), (CHECK, ["c"])],
)
def test_a_multi_grader_is_read_in_each_of_its_shapes(parts: Any, keys: list[str]) -> None:
    grader = graders.parse(multi(parts))
    assert isinstance(grader, MultiGrader)
    assert [part.key for part in grader.parts] == keys


def test_a_part_may_be_called_type() -> None:
    grader = graders.parse(multi({"type": CHECK}))
    assert isinstance(grader, MultiGrader)
    assert grader.parts[0].key == "type"


@pytest.mark.parametrize(
    "content",
    ["x", {"type": "input_text", "text": "x"}, ["x"], [{"type": "output_text", "text": "x"}]],
)
def test_a_message_has_its_texts_in_each_form(content: Any) -> None:
    grader = graders.parse(SCORE | {"input": [{"role": "user", "content": content}]})
    assert isinstance(grader, graders.ScoreModelGrader)
    assert grader.input[0].texts == ["x"]


@pytest.mark.parametrize(
    ("value", "loc"),
    [
        (None, ()),
        ([], ()),
        ({}, ("type",)),
        ({"type": 1}, ("type",)),
        ({"type": "nonsense"}, ("type",)),
        (CHECK | {"operation": "nonsense"}, ("operation",)),
        ({k: v for k, v in CHECK.items() if k != "reference"}, ("reference",)),
        (CHECK | {"input": 1}, ("input",)),
        (SIMILAR | {"evaluation_metric": "rouge_6"}, ("evaluation_metric",)),
        (SCORE | {"range": [1, 0]}, ("range",)),
        (SCORE | {"range": [0]}, ("range",)),
        (SCORE | {"input": []}, ("input",)),
        (SCORE | {"input": [{"role": "robot", "content": "x"}]}, ("input", 0, "role")),
        (SCORE | {"input": [{"role": "user"}]}, ("input", 0, "content")),
        (SCORE | {"input": [{"role": "user", "content": {"type": "input_image"}}]}, ("input", 0)),
        (SCORE | {"sampling_params": {"temperature": 3}}, ("sampling_params", "temperature")),
        (LABEL | {"passing_labels": ["c"]}, ("passing_labels",)),
        (LABEL | {"labels": []}, ("labels",)),
        (PYTHON | {"source": "#" * (256 * 1024 + 1)}, ("source",)),
        (multi({}), ("graders",)),
        (multi([]), ("graders",)),
        (multi(None), ("graders",)),
        (multi({str(n): CHECK for n in range(33)}), ("graders",)),
        (multi({"x": CHECK | {"operation": "?"}}), ("graders", "x", "operation")),
        (multi([CHECK, {"type": "python"}]), ("graders", 1, "name")),
        (multi({"type": "string_check"}), ("graders", "name")),
        (multi({"x": multi(CHECK)}), ("graders", "x", "type")),
        (multi([CHECK, CHECK]), ("graders", 1, "name")),
        ({k: v for k, v in multi(CHECK).items() if k != "calculate_output"}, ("calculate_output",)),
    ],
)
def test_what_is_wrong_is_told_by_its_place(value: Any, loc: tuple[int | str, ...]) -> None:
    assert where_wrong(value)[: len(loc)] == loc
