from __future__ import annotations

from typing import Any

import pytest

from grading import graders
from grading.grade import ModelFailed, Sample, check, grade
from grading.graders import InvalidGrader
from grading.reward import Graded

CHECK = {
    **{"type": "string_check", "name": "exact", "operation": "eq"},
    **{"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"},
}
SCORE = {
    **{"type": "score_model", "name": "judge", "model": "m"},
    "input": [
        {"role": "system", "content": "Judge."},
        {"role": "user", "content": [{"type": "input_text", "text": "{{ sample.output_text }}"}]},
    ],
}
LABEL = SCORE | {"type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


class Model:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, content: str | None = None, **message: Any) -> None:
        self.message = {"role": "assistant", "content": content, **message}
        self.bodies: list[dict[str, Any]] = []
        self.failure: ModelFailed | None = None

    async def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        return {"model": body["model"], "choices": [{"message": self.message}], "usage": USAGE}


async def run(
    value: object,
    sample: str = "42",
    item: dict[str, Any] | None = None,
    model: Model | None = None,
) -> Graded:
    return await grade(graders.parse(value), Sample(sample), item or {}, model or Model("1"))


def flags(graded: Graded) -> set[str]:
    return {name for name, value in vars(graded.errors).items() if value is True}


def multi(parts: Any, formula: str) -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": parts, "calculate_output": formula}


@pytest.mark.parametrize(
    ("operation", "text", "reference", "reward"),
    [
        *(
            ("eq", "a", "a", 1.0),
            ("eq", "a", "A", 0.0),
            ("ne", "a", "A", 1.0),
            ("ne", "a", "a", 0.0),
        ),
        *(("like", "xay", "a", 1.0), ("like", "a", "xay", 0.0), ("like", "xay", "A", 0.0)),
        *(
            ("ilike", "xay", "A", 1.0),
            ("ilike", "STRASSE", "straße", 1.0),
            ("ilike", "b", "A", 0.0),
        ),
    ],
)
async def test_strings_are_compared(
    operation: str, text: str, reference: str, reward: float
) -> None:
    graded = await run(CHECK | {"operation": operation}, text, {"answer": reference})
    assert graded.reward == reward
    assert flags(graded) == set()
    assert graded.num_tokens is None
    assert graded.execution_time_s >= 0


@pytest.mark.parametrize(
    ("path", "sample", "flag"),
    [
        ("item.missing", "x", "invalid_variable_error"),
        ("sample.nonsense", "x", "invalid_variable_error"),
        ("sample.output_json.a", "x", "sample_parse_error"),
        ("sample.output_json.a", "NaN", "sample_parse_error"),
        ("sample.output_json.a", '"\\ud800"', "sample_parse_error"),
        ("sample.output_json.a", "[" * 100_000, "sample_parse_error"),
        ("sample.output_json.a", '{"b": 1}', "invalid_variable_error"),
    ],
)
async def test_a_variable_that_is_not_there_raises_its_flag(
    path: str, sample: str, flag: str
) -> None:
    graded = await run(CHECK | {"input": "{{ " + path + " }}", "reference": ""}, sample)
    assert graded.reward == 0.0
    assert flags(graded) == {flag}
    assert graded.errors.details


async def test_the_sample_is_seen_in_each_of_its_forms() -> None:
    for path, expected in (
        ("sample.output_json.a.b", "c"),
        ("sample.choices[0].message.content", '{"a": {"b": "c"}}'),
        ("sample.output_tools", "[]"),
    ):
        value = CHECK | {"input": "{{" + path + "}}", "reference": "{{ item.x }}"}
        assert (await run(value, '{"a": {"b": "c"}}', {"x": expected})).reward == 1.0


async def test_a_text_that_is_too_long_raises_its_flag() -> None:
    similar = CHECK | {"type": "text_similarity", "evaluation_metric": "bleu", "reference": "x"}
    assert flags(await run(similar, "x" * 40_000)) == {"truncated_observation_error"}
    value = CHECK | {"input": "{{ sample.output_text }}" * 100, "reference": ""}
    assert flags(await run(value, "x" * 100_000)) == {"truncated_observation_error"}


async def test_a_model_is_asked_for_a_score() -> None:
    model = Model('{"result": 4.5}')
    sampling = {"seed": 3, "top_p": 0.5, "max_completions_tokens": 9, "reasoning_effort": "low"}
    value = SCORE | {"range": [1, 5], "sampling_params": sampling}
    graded = await run(value, "an answer", model=model)
    assert graded.reward == 4.5
    assert graded.sampled_model_name == "m"
    assert graded.num_tokens == 9
    (body,) = model.bodies
    assert body["messages"][0] == {"role": "system", "content": "Judge."}
    assert body["messages"][1]["content"].startswith("an answer\n\n")
    assert body["seed"] == 3
    assert body["max_completion_tokens"] == 9
    assert body["temperature"] == 0
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["result"] == {"type": "number", "minimum": 1, "maximum": 5}


async def test_a_model_is_asked_without_a_schema_when_the_server_enforces_none() -> None:
    model = Model("0.5")
    model.failure = ModelFailed("Unsupported", "response_format")
    assert (await run(SCORE, model=model)).reward == 0.5
    assert "response_format" not in model.bodies[1]


@pytest.mark.parametrize(("answer", "reward"), [("good", 1.0), ('{"result": "bad"}', 0.0)])
async def test_a_label_passes_or_not(answer: str, reward: float) -> None:
    graded = await run(LABEL, model=Model(answer))
    assert graded.reward == reward
    assert graded.scores["label"] in ("good", "bad")


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (Model("who knows"), "model_grader_parse_error"),
        (Model("7"), "model_grader_parse_error"),
        (Model(""), "unresponsive_reward_error"),
        (Model(None, refusal="I will not."), "model_grader_refusal_error"),
    ],
)
async def test_an_answer_of_no_use_raises_its_flag_and_is_paid_for(model: Model, flag: str) -> None:
    graded = await run(SCORE, model=model)
    assert flags(graded) == {flag}
    assert graded.reward == 0.0
    assert graded.num_tokens == 9


async def test_a_model_that_fails_raises_its_flag() -> None:
    model = Model()
    model.failure = ModelFailed("The model is overloaded.")
    graded = await run(SCORE, model=model)
    assert flags(graded) == {"model_grader_server_error"}
    assert graded.errors.model_grader_server_error_details == "The model is overloaded."
    assert graded.num_tokens is None


async def test_a_formula_puts_rewards_together() -> None:
    parts = {"exact": CHECK, "judge": SCORE, "again": SCORE}
    value = multi(parts, "0.5 * exact + max(judge, again) ^ 2")
    graded = await run(value, item={"answer": "42"}, model=Model("0.5"))
    assert graded.reward == 0.75
    assert graded.sub_rewards == {"exact": 1.0, "judge": 0.5, "again": 0.5}
    assert graded.num_tokens == 18
    assert graded.usage["m"].prompt_tokens == 14
    assert graded.sampled_model_name is None


async def test_a_formula_finds_graders_without_keys() -> None:
    similar = CHECK | {"type": "text_similarity", "name": "how alike", "evaluation_metric": "bleu"}
    for formula in ("exact + how_alike", "string_check_score + text_similarity_score"):
        graded = await run(multi([CHECK, similar], formula), "a b c d", {"answer": "a b c d"})
        assert graded.reward == pytest.approx(2.0)
    assert (await run(multi(CHECK, "exact"), item={"answer": "42"})).reward == 1.0


async def test_a_part_that_fails_leaves_the_whole_without_a_reward() -> None:
    graded = await run(multi({"a": CHECK, "b": SCORE}, "1 - a"), item={})
    assert graded.reward == 0.0
    assert flags(graded) == {"invalid_variable_error"}
    assert graded.sub_rewards == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize("formula", ["a +", "missing", "1 / (a - 1)", "9 ^ 9 ^ 9", ""])
async def test_a_formula_without_a_value_raises_its_flag(formula: str) -> None:
    graded = await run(multi({"a": CHECK}, formula), item={"answer": "42"})
    assert flags(graded) == {"formula_parse_error"}
    assert graded.reward == 0.0
    assert graded.sub_rewards == {"a": 1.0}


@pytest.mark.parametrize(
    ("value", "loc"),
    [
        (CHECK | {"input": "{{ other.x }}"}, ("grader", "input")),
        (
            SCORE | {"input": [{"role": "user", "content": "{{ 1 }}"}]},
            ("grader", "input", 0, "content"),
        ),
        (
            multi({"a": CHECK | {"reference": "{{ x }}"}}, "a"),
            ("grader", "graders", "a", "reference"),
        ),
        (multi({"a": CHECK}, "a +"), ("grader", "calculate_output")),
        (multi({"a": CHECK}, "b"), ("grader", "calculate_output")),
    ],
)
def test_what_no_sample_can_mend_is_known_before(value: Any, loc: tuple[int | str, ...]) -> None:
    with pytest.raises(InvalidGrader) as caught:
        check(graders.parse(value))
    assert caught.value.details["loc"] == loc


def test_what_is_well_formed_passes() -> None:
    check(graders.parse(multi({"a": CHECK, "b": LABEL}, "a * b")))
