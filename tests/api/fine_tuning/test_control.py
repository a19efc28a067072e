"""`luthier` within hyperparameters, as the unmodified client sends it: shown again, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.fine_tuning.control import Control
from foundation.invalid_parameters import explain
from tests.factories import chat_row, jsonl
from tests.worker.job.test_resolve import resolve
from worker.job import control

PATH = "method.supervised.hyperparameters.luthier"
USER = {"role": "user", "content": "Which colour?"}
STOPPING = {"metric": "full_valid_loss", "patience": 2, "min_delta": 0.01}


@pytest.fixture
def file(client: openai.OpenAI) -> str:
    rows = jsonl(chat_row(f"Question {number}?", "Blue.") for number in range(10))
    return client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id


def create(
    client: openai.OpenAI,
    file: str,
    luthier: Any,
    *,
    validation: bool = True,
    method: str = "supervised",
    **hyperparameters: Any,
) -> Any:
    asked = {**hyperparameters, "luthier": luthier}
    return client.fine_tuning.jobs.create(
        model="tiny-random",
        training_file=file,
        validation_file=file if validation else openai.omit,
        extra_body={"method": {"type": method, method: {"hyperparameters": asked}}},
    )


def test_what_was_asked_is_shown_again(client: openai.OpenAI, file: str) -> None:
    asked = {
        "lr_schedule": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        "max_seq_len": 512,
        "dropout": 0.05,
        "neftune_noise_alpha": 5.0,
        "loraplus_ratio": 16.0,
        "shared": "never",
        "early_stopping": STOPPING,
        "keep": "best",
        "best_metric": "full_valid_mean_token_accuracy",
    }
    job = create(client, file, asked, n_epochs=2)
    shown = client.fine_tuning.jobs.retrieve(job.id)
    assert shown.hyperparameters.model_dump()["luthier"] == asked
    assert shown.method is not None
    assert shown.method.model_dump()["supervised"]["hyperparameters"]["luthier"] == asked


def test_without_it_nothing_is_shown(client: openai.OpenAI, file: str) -> None:
    nothing: list[Any] = [None, {}]
    for luthier in nothing:
        shown = create(client, file, luthier).hyperparameters.model_dump()
        assert "luthier" not in shown


def test_what_a_finished_job_shows_can_be_asked_for(client: openai.OpenAI, file: str) -> None:
    for schedule in ("linear", "constant"):
        asked = {"lr_schedule": schedule, "warmup_ratio": 0, "keep": "best"}
        job = resolve(100, hyperparameters={"luthier": asked}).config
        shown = control.shown({"luthier": asked}, job)["luthier"]
        again = create(client, file, shown).hyperparameters.model_dump()["luthier"]
        assert again == shown
        assert again["warmup_steps"] == 0


def test_at_the_top_level_it_is_taken_too_and_the_method_s_own_comes_first(
    client: openai.OpenAI, file: str
) -> None:
    own = {"hyperparameters": {"luthier": {"weight_decay": 0.2}}}
    job = client.fine_tuning.jobs.create(
        model="tiny-random",
        training_file=file,
        extra_body={
            "hyperparameters": {"luthier": {"weight_decay": 0.1, "lr_schedule": "cosine"}},
            "method": {"type": "supervised", "supervised": own},
        },
    )
    luthier = job.hyperparameters.model_dump()["luthier"]
    assert luthier == {"weight_decay": 0.2, "lr_schedule": "cosine"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="tiny-random",
            training_file=file,
            extra_body={"hyperparameters": {"luthier": {"keep": "best"}}},
        )
    assert caught.value.param == "hyperparameters.luthier.keep"


@pytest.mark.parametrize(
    ("luthier", "param", "words"),
    [
        ({"wieght_decay": 0.1}, "wieght_decay", "Unknown parameter"),
        ({"early_stopping": {"patients": 1}}, "early_stopping.patients", "Unknown parameter"),
        ({"lr_schedule": "cosin"}, "lr_schedule", "'linear', 'cosine', 'constant'"),
        ({"weight_decay": -1}, "weight_decay", "a number between 0 and 1, but got -1"),
        ({"weight_decay": True}, "weight_decay", "but got True"),
        ({"warmup_steps": 1.5}, "warmup_steps", "an integer between 0 and 1000000, but got 1.5"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "warmup_ratio", "not both"),
        ({"warmup_steps": 1, "lr_schedule": "constant"}, "warmup_steps", "constant_with_warmup"),
        ({"warmup_ratio": 0.1, "lr_schedule": "constant"}, "warmup_ratio", "constant_with_warmup"),
        ({"dropout": 1}, "dropout", "a number between 0 and 0.9"),
        ({"loraplus_ratio": 0}, "loraplus_ratio", "a number above 0, 100 at most"),
        ({"shared": "always"}, "shared", "'auto' or 'never'"),
        ({"max_seq_len": 4096}, "max_seq_len", "the base takes 2048 tokens, but got 4096"),
        ({"max_seq_len": 10**300}, "max_seq_len", "but got 1e+300"),
        ({"early_stopping": {"metric": "f1"}}, "early_stopping.metric", "full_valid_loss, full_va"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience", "between 1 and 50"),
        ({"best_metric": "full_valid_loss"}, "best_metric", "add keep: 'best'"),
        ({"keep": "best", "best_metric": "loss"}, "best_metric", "but got 'loss'"),
        ("cosine", "", "expected an object"),
        ({"probes": [{"prompt": "x"}] * 21}, "probes", "at most 20, but got 21"),
        ({"probes": [{"max_tokens": 5}]}, "probes.0", "either 'messages' or a 'prompt'"),
        ({"probes": [{"prompt": "x", "messages": [USER]}]}, "probes.0", "either 'messages' or"),
        ({"probes": [{"prompt": "x", "max_tokens": 513}]}, "probes.0.max_tokens", "1 and 512"),
        ({"probes": [{"prompt": "x", "temperature": 1}]}, "probes.0.temperature", "Unknown"),
        ({"probes": [{"prompt": "\0"}]}, "probes.0.prompt", "NUL"),
        ({"probes": [{"messages": [USER]}]}, "probes", "no inference server serves this base"),
        ({"probes": [{"messages": []}]}, "probes.0.messages", "minimum length 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(
    client: openai.OpenAI, file: str, luthier: Any, param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, file, luthier)
    assert caught.value.param == f"{PATH}.{param}".rstrip(".")
    assert words in caught.value.message
    assert caught.value.code is not None


@pytest.mark.parametrize("luthier", [{"early_stopping": {}}, {"keep": "best"}])
def test_what_goes_by_validation_needs_a_file(
    client: openai.OpenAI, file: str, luthier: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError, match="add validation_file") as caught:
        create(client, file, luthier, validation=False)
    assert caught.value.param == f"{PATH}.{next(iter(luthier))}"


@pytest.mark.parametrize(
    ("knob", "words"),
    [("dropout", "only LoRA has dropout"), ("loraplus_ratio", "has no LoRA matrices")],
)
def test_what_lora_alone_has_is_refused_for_other_tunings(
    client: openai.OpenAI, file: str, knob: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.fine_tuning.jobs.create(
            model="tiny-random",
            training_file=file,
            extra_body={
                "hyperparameters": {"luthier": {knob: 0.5}},
                "tuning": {"type": "full"},
            },
        )
    assert caught.value.param == f"hyperparameters.luthier.{knob}"


def test_overlap_is_bounded_by_the_windows_that_were_asked_for(
    client: openai.OpenAI, file: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="an overlap of 64 at most, but got 65"):
        create(client, file, {"max_seq_len": 128}, method="unsupervised", overlap=65)


@pytest.mark.parametrize("knob", ["dropout", "neftune_noise_alpha"])
def test_no_noise_where_two_models_are_compared(
    client: openai.OpenAI, file: str, knob: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="compares two models") as caught:
        create(client, file, {knob: 0.1}, method="dpo")
    assert caught.value.param == f"method.dpo.hyperparameters.luthier.{knob}"


NUMBERS = st.integers() | st.floats() | st.integers(0, 2000).map(lambda digits: 10**digits)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(knob=st.sampled_from(sorted(Control.model_fields)), value=ANYTHING)
@example(knob="dropout", value=math.nan)
@example(knob="warmup_steps", value=10**400)
@example(knob="max_grad_norm", value=math.inf)
def test_a_knob_takes_a_value_or_refuses_it_by_name(knob: str, value: Any) -> None:
    try:
        taken = Control.model_validate({knob: value}).asked()
    except ValidationError as error:
        refusal = explain(error.errors())
        assert refusal.param is not None
        assert refusal.param.split(".")[0] == knob
        assert len(refusal.message) < 3000
        return
    assert taken.keys() <= {knob}
    for number in taken.values():
        assert not isinstance(number, float) or math.isfinite(number)
    # What stands in a row can be asked for again.
    assert Control.model_validate(taken).asked() == taken
