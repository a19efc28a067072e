"""`make examples` on the tiny base: every example runs through, whatever such a base learns from it."""

from __future__ import annotations

import math
from dataclasses import replace

import openai
import pytest

from examples.__main__ import run
from examples.catalogue import EXAMPLES, Example


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_trains_and_measures(client: openai.OpenAI, example: Example) -> None:
    short = {**example.hyperparameters, "n_epochs": 1, "batch_size": 16}
    rows = None if example.training.endswith(".txt") else 32
    outcome = run(client, "tiny-random", replace(example, max_rows=rows, hyperparameters=short))
    assert outcome.problem is None
    assert math.isfinite(outcome.before)
    assert math.isfinite(outcome.after)
    assert outcome.line.endswith(("ok", "not ok"))


@pytest.mark.slow
def test_an_example_whose_job_fails_says_why(client: openai.OpenAI) -> None:
    outcome = run(client, "tiny-random", replace(EXAMPLES[0], max_rows=3))
    assert not outcome.is_ok
    assert "not ok, job ftjob-" in outcome.line
    assert "at least 10" in str(outcome.problem)
