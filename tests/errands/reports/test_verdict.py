"""The verdict's rules, one after the other, and the sentences as users read them."""

from __future__ import annotations

from typing import Any

import pytest

from errands.reports.sections.changed import told
from errands.reports.verdict import Judged, judge
from grading import statistics

Json = dict[str, Any]


def found(
    gained: int,
    lost: int,
    n: int,
    *,
    tuned: float = 0.8,
    copies: bool = False,
    parts: tuple[tuple[str, float, float], ...] = (),
    clusters: int | None = None,
    gate: str | None = None,
    caution: str | None = None,
    break_even: int | None = None,
) -> Json:
    """What the sections found where tuning won so many rows and lost so many."""
    tuned_scores = [1.0] * gained + [0.0] * lost + [1.0] * (n - gained - lost)
    other_scores = [0.0] * gained + [1.0] * lost + [1.0] * (n - gained - lost)
    difference = statistics.compare(tuned_scores, other_scores)
    other: Json = {"name": "other", "title": "the base with 8 worked examples", "model": "base"}
    other |= {"primary": {"value": 0.5}, "prompt_tokens": 700.0}
    if copies:
        other |= {"title": "vote of the nearest rows", "model": None, "prompt_tokens": None}
    mine = {"name": "tuned", "primary": {"value": tuned}, "model": "ft", "prompt_tokens": 77.0}
    return {
        "contenders": {"rows": n, "clusters": clusters or n, "contenders": [other, mine]},
        "changed": {
            "against": "other",
            "difference": told(difference),
            "sees": statistics.smallest_difference(clusters or n),
            "parts": [{"name": a, "value": v, "p_holm": p} for a, v, p in parts],
        },
        "cost": {"break_even_requests": break_even},
        "forgetting": {"gate": gate, "caution": caution},
    }


def of(*counts: int, **values: Any) -> Judged:
    return judge(found(*counts, **values), why_none=None)


@pytest.mark.parametrize(
    ("judged", "code", "sentence"),
    [
        (
            of(4, 2, 24),
            "too_few",
            "Too few rows to tell: 24 show only differences above 38 points; 57 would show 20. Seen were +8 (-12 to 27) "
            "against the base with 8 worked examples.",
        ),
        (
            of(2, 20, 72, parts=(("kind", -0.02, 0.9), ("urgent", -0.2, 0.001))),
            "worse",
            "Do not deploy: worse than the base with 8 worked examples by 25 (13 to 36) on 72 rows that it had not learnt, "
            "most on `urgent`.",
        ),
        (
            of(40, 1, 72, gate="answers 31 % of unrelated questions in ticket form"),
            "forgets",
            "Helps on the task, but answers 31 % of unrelated questions in ticket form.",
        ),
        (
            of(2, 2, 400, break_even=1200),
            "prompting_enough",
            "Prompting is enough: 0 (-1 to 1) over the base with 8 worked examples, on 400 rows that it had not learnt. It "
            "costs 623 tokens more a request; tuning pays back after 1200 requests.",
        ),
        (
            of(2, 2, 400, copies=True),
            "copying_enough",
            "Copying is enough: 0 (-1 to 1) over vote of the nearest rows, on 400 rows that it had not learnt. A look-up does "
            "it without a model.",
        ),
        (
            of(30, 2, 72, parts=(("refund", -0.2, 0.01), ("kind", 0.5, 0.001))),
            "helped_but",
            "Deploy with care: +39 (25 to 50) over the base with 8 worked examples, on 72 rows that it had not learnt, but "
            "worse on `refund`.",
        ),
        (
            of(30, 2, 72, tuned=0.34),
            "still_poor",
            "Better, but right only 34 % of the time: +39 (25 to 50) over the base with 8 worked examples, on 72 rows that it "
            "had not learnt.",
        ),
        (
            of(40, 1, 72),
            "helped",
            "Fine-tuning helped: +54 (40 to 65) over the base with 8 worked examples, on 72 rows that it had not learnt, 623 "
            "prompt tokens fewer a request.",
        ),
        (
            of(40, 1, 72, caution="answers 31 % of unrelated questions in ticket form"),
            "helped",
            "Fine-tuning helped: +54 (40 to 65) over the base with 8 worked examples, on 72 rows that it had not learnt, 623 "
            "prompt tokens fewer a request. Always call it with its system prompt: without it, it answers 31 % of unrelated "
            "questions in ticket form.",
        ),
        (
            of(12, 8, 100),
            "unproven",
            "Not shown: between -5 and +13 against the base with 8 worked examples, on 100 rows that it had not learnt. 155 "
            "rows would settle 10 points.",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_the_first_rule_that_fits_speaks(judged: Judged, code: str, sentence: str) -> None:
    assert (judged.code, judged.sentence) == (code, sentence)


def test_few_rows_that_all_say_the_same_are_enough() -> None:
    assert of(20, 0, 24).code == "helped"


def test_many_rows_of_few_questions_are_few() -> None:
    judged = of(40, 1, 72, clusters=3)

    assert judged.code == "too_few"
    assert "72 with 3 different questions" in judged.sentence


def test_a_part_is_worse_only_if_that_is_sure() -> None:
    assert of(40, 1, 72, parts=(("refund", -0.1, 0.2),)).code == "helped"


def test_the_users_target_is_what_is_good_enough() -> None:
    assert judge(found(40, 1, 72), why_none=None, target=0.9).code == "still_poor"


def test_without_a_comparison_the_reason_is_the_sentence() -> None:
    why = "The job had no validation file."

    assert judge({"changed": {"skipped": "x"}}, why_none=why).sentence == (
        "Not told: the job had no validation file."
    )
