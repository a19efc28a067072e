"""Jobs that learn from preferences, as the unmodified client creates them."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.factories import jsonl, preference_rows

ROWS = jsonl(preference_rows(10))
NAMES = (
    *("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
    *("loss_type", "label_smoothing", "gamma", "sft_weight"),
)


def create(client: openai.OpenAI, **hyperparameters: Any) -> FineTuningJob:
    file = client.files.create(file=("pairs.jsonl", ROWS), purpose="fine-tune")
    dpo: Any = {"hyperparameters": hyperparameters}
    return client.fine_tuning.jobs.create(
        model="tiny-random", training_file=file.id, method={"type": "dpo", "dpo": dpo}
    )


def test_what_was_asked_is_shown_again(client: openai.OpenAI) -> None:
    asked = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5, "beta": 2}
    more = {"loss_type": "dpo", "label_smoothing": 0.1, "gamma": 0, "sft_weight": 0.1}
    job = create(client, **asked, **more)
    assert job.status == "validating_files"
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta == 2
    assert job.method.dpo.hyperparameters.model_dump() == {**asked, **more}
    assert job.method.supervised is None


def test_what_was_not_asked_is_auto(client: openai.OpenAI) -> None:
    file = client.files.create(file=("pairs.jsonl", ROWS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny-random", training_file=file.id, method={"type": "dpo"}
    )
    assert job.method is not None
    assert job.method.model_dump()["dpo"] == {"hyperparameters": dict.fromkeys(NAMES, "auto")}


@pytest.mark.parametrize(
    ("asked", "name", "words"),
    [
        ({"beta": 0}, "beta", "expected 'auto' or a number above 0, 2 at most, but got 0 instead"),
        ({"beta": 2.1}, "beta", "but got 2.1"),
        (
            {"loss_type": "ipo", "beta": 1e-30},
            "beta",
            "expected 0.005 or more with the loss_type 'ipo', which asks for a lead of 1 / (2 beta) nats a token",
        ),
        (
            {"loss_type": "kto"},
            "loss_type",
            "expected 'auto' or 'dpo', 'ipo', 'simpo' or 'orpo', but got 'kto'",
        ),
        ({"label_smoothing": 0.5}, "label_smoothing", "a number from 0, below 0.5, but got 0.5"),
        ({"sft_weight": -1}, "sft_weight", "a number from 0, below 10, but got -1"),
        (
            {"loss_type": "ipo", "label_smoothing": 0.1},
            "label_smoothing",
            "expected 0 with the loss_type 'ipo', which has no label smoothing",
        ),
        (
            {"loss_type": "simpo", "label_smoothing": 0.1},
            "label_smoothing",
            "or the loss_type 'dpo'.",
        ),
        ({"gamma": 0.5}, "gamma", "with the loss_type 'dpo', which asks for no margin"),
        ({"loss_type": "simpo", "gamma": 20}, "gamma", "a number from 0, below 20, but got 20"),
        (
            {"loss_type": "orpo", "sft_weight": 0.1},
            "sft_weight",
            "which teaches to write the preferred answers anyway",
        ),
        ({"n_epochs": 51}, "n_epochs", "between 1 and 50"),
    ],
)
def test_values_out_of_bounds_are_refused(
    client: openai.OpenAI, asked: dict[str, Any], name: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **asked)
    assert words in caught.value.message
    assert caught.value.param == f"method.dpo.hyperparameters.{name}"
    assert caught.value.code == "invalid_value"
    create(client, loss_type="ipo", label_smoothing=0, sft_weight=0)
    create(client, loss_type="simpo", gamma=1.5, sft_weight=0.1)
