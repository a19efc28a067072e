from __future__ import annotations

import pytest

from grading import model_graders
from grading.reward import CannotGrade


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"result": 0.5}', 0.5),
        ('{"score": 1}', 1.0),
        ('{"result": "0.5"}', 0.5),
        ('Sure! ```json\n{"result": 0.25}\n```', 0.25),
        ("0.8", 0.8),
        ("  1  ", 1.0),
        (".5", 0.5),
        ("The score is 0.7.", 0.7),
        ("**Score:** 0.7 because 2 of 3 facts are right", 0.7),
        ("I would say 0.3", 0.3),
        ("1e-1", 0.1),
    ],
)
def test_a_score_is_found(answer: str, expected: float) -> None:
    assert model_graders.score(answer, 0.0, 1.0) == expected


@pytest.mark.parametrize(
    "answer",
    [
        *("no idea", "{}", '{"result": null}', '{"result": true}', '{"result": 2}', "-0.5", "nan"),
        *("8/10", "Score: 1/2", "80%", "0 or 1", "score 0, score 1", "1.5", "1e999", "v1", "1.2.3"),
        '{"result": 0} {"result": 1}',
        "[" * 10_000,
        "9" * 10_000,
    ],
)
def test_an_answer_that_is_no_score_or_several_is_none(answer: str) -> None:
    with pytest.raises(CannotGrade) as caught:
        model_graders.score(answer, 0.0, 1.0)
    assert caught.value.flag == "model_grader_parse_error"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"result": "good"}', "good"),
        ('{"label": "Not good"}', "not good"),
        ("good", "good"),
        ('"Good".', "good"),
        ("The answer is bad, I think.", "bad"),
        ("It is clearly not good", "not good"),
    ],
)
def test_a_label_is_found(answer: str, expected: str) -> None:
    assert model_graders.label(answer, ["good", "bad", "not good"]) == expected


@pytest.mark.parametrize("answer", ["goodish", "good or bad", '{"result": "fine"}', "?"])
def test_an_answer_that_is_no_label_or_several_is_none(answer: str) -> None:
    with pytest.raises(CannotGrade) as caught:
        model_graders.label(answer, ["good", "bad", "not good"])
    assert caught.value.flag == "model_grader_parse_error"


@pytest.mark.parametrize("completion", [{}, {"choices": []}, {"choices": [{"message": {}}]}])
def test_no_words_are_an_unresponsive_reward(completion: dict[str, object]) -> None:
    with pytest.raises(CannotGrade) as caught:
        model_graders.content(completion)
    assert caught.value.flag == "unresponsive_reward_error"
