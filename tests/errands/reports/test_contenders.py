"""Who is compared and how each is asked, without a model."""

from __future__ import annotations

import json

import pytest

from dataset.task_type import task_of
from errands.reports import cases
from errands.reports.cases import Case
from errands.reports.contenders import CONSTANT, COPY, Contender, Ground, diverse
from errands.reports.prompts import Ending, Wording, full_instruction
from tests.factories import Json, chat_row, prompt_rows

KINDS = ["delivery", "billing", "defect"]
MAILS = [
    chat_row(
        f"{KINDS[n % 3]} trouble number {n}",
        json.dumps({"kind": KINDS[n % 3], "urgent": n % 4 == 0}),
        "Extract the ticket.",
    )
    for n in range(30)
]


def all_cases(rows: list[Json]) -> list[Case]:
    return [case for line, row in enumerate(rows, start=1) for case in cases.of_row(row, line)]


def ground(rows: list[Json]) -> Ground:
    training = all_cases(rows)
    return Ground(training, task_of(rows), Ending.of(training, ()))


def test_an_instruction_tells_all_keys_and_values_and_an_example() -> None:
    told = full_instruction(task_of(MAILS), all_cases(MAILS))

    assert told.startswith("Extract the ticket.\nAnswer with JSON and nothing else, in one line.\n")
    assert '{"kind": "delivery", "billing" or "defect", "urgent": false or true}' in told
    assert 'For example: {"kind": "' in told


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (
            [KINDS[n % 3] for n in range(30)],
            "one of these and nothing else: delivery, billing, defect.",
        ),
        ([str(n * 17) for n in range(30)], "Answer with a number and nothing else."),
    ],
)
def test_an_instruction_says_what_kind_of_answer_it_wants(answers: list[str], told: str) -> None:
    rows = [chat_row(f"Row {n}?", answer) for n, answer in enumerate(answers)]

    assert told in full_instruction(task_of(rows), all_cases(rows))


def test_worked_examples_come_before_the_question_the_nearest_last() -> None:
    here = ground(MAILS)
    asked = next(cases.of_row(chat_row("billing trouble number 99", "?", "Own words."), 1))
    contender = Contender(
        "grounded", "", "base", Wording("Do it.", tuple(here.training[:1])), num_near=2
    )

    question = here.question(contender, asked)

    messages = question.body["messages"]
    assert messages[0] == {"role": "system", "content": "Do it."}
    assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * 3 + ["user"]
    assert messages[1]["content"] == "delivery trouble number 0"
    assert messages[5]["content"].startswith("billing")
    assert messages[-1]["content"] == "billing trouble number 99"
    assert question.body["temperature"] == 0
    own = Contender("zero_shot", "", "base")
    assert here.question(own, asked).body["messages"][0]["content"] == "Own words."


def test_completions_are_asked_as_text() -> None:
    here = ground(prompt_rows(12))
    contender = Contender("few_shot", "", "base", Wording("Continue.", tuple(here.training[:1])))

    question = here.question(contender, here.training[3])

    assert question.path == "/v1/completions"
    assert question.body["prompt"] == "Continue.\n\nitem 0 -> sold\n\nitem 3 ->"


def test_an_answer_ends_where_answers_end() -> None:
    assert ground(MAILS).ending.stop == ("\n\n",)
    rows = [chat_row("?", "One.\n\nTwo.")]
    ending = Ending.of(all_cases(rows), ())
    assert ending.stop == ()
    assert ending.max_tokens > len("One.\n\nTwo.") / 2
    assert Ending.of(all_cases([chat_row("?", "x" * 50_000)]), ()).max_tokens == 1024


def test_without_a_model_the_rows_vote_field_by_field() -> None:
    here = ground(MAILS)
    asked = next(cases.of_row(chat_row("billing trouble again", "?"), 1))

    assert json.loads(here.reply(COPY, asked).text)["kind"] == "billing"
    # 0, 4, 8, ... are urgent: one in four.
    assert json.loads(here.reply(CONSTANT, asked).text) == {"kind": "delivery", "urgent": False}


def test_a_row_is_no_neighbour_of_itself() -> None:
    here = ground(MAILS)

    near = here.near(here.training[4], 30)

    assert len(near) == 29
    assert here.training[4] not in near


def test_diverse_examples_show_each_value_before_any_twice() -> None:
    training = all_cases(MAILS)

    chosen = diverse(training, 3, seed=0)

    assert {json.loads(case.wanted.text)["kind"] for case in chosen} == set(KINDS)
    assert diverse(training, 3, seed=0) == chosen
    assert diverse(training, 50, seed=1) != tuple(training)
    assert len(diverse(training, 50, seed=1)) == 30


def test_a_row_without_an_answer_to_learn_has_no_case() -> None:
    row = chat_row("Hello?", "Hi.")
    row["messages"][1]["weight"] = 0

    assert list(cases.of_row(row, 1)) == []
    assert list(cases.of_row({"text": "raw"}, 1)) == []
