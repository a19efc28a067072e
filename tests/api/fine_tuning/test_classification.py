"""Jobs that classify, as the unmodified client creates them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.stack import Api, Tenant
from tests.factories import jsonl

ROWS = jsonl({"text": f"Number {n}", "label": "ab"[n % 2]} for n in range(10))
NAMES = (
    "n_epochs",
    "batch_size",
    "learning_rate_multiplier",
    "class_weights",
    "n_classes",
    "positive_class",
    "betas",
)


def create(client: openai.OpenAI, *, body: Any = None, **asked: Any) -> Any:
    file = client.files.create(file=("labelled.jsonl", ROWS), purpose="fine-tune")
    method = {"type": "classification", "classification": {"hyperparameters": asked}}
    return client.fine_tuning.jobs.create(
        model="tiny-random", training_file=file.id, extra_body={"method": method, **(body or {})}
    )


def test_what_was_asked_is_shown_again_and_the_rest_is_auto(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"class_weights": {"a": 2}, "positive_class": "a", "betas": [0.5, 2]}
    job = create(client, **asked)
    shown = client.fine_tuning.jobs.retrieve(job.id).model_dump()["method"]
    assert shown["type"] == "classification"
    assert shown["classification"]["hyperparameters"] == {
        **dict.fromkeys(NAMES, "auto"),
        "head": False,
        **asked,
    }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "class_weights",
            "even",
            "expected 'auto' or 'balanced' or an object of a weight from 0.001 to",
        ),
        ("class_weights", {}, "but got {}"),
        ("class_weights", {"a\0": 1}, "for each label, but got {'a\\x00': 1}"),
        ("class_weights", {"a" * 1001: 1}, "for each label, but got {'aaa"),
        ("class_weights", {"a": 0}, "but got {'a': 0}"),
        # It would be 0 to the trainer, and a batch of such examples none.
        ("class_weights", {"a": 1e-60}, "but got {'a': 1e-60}"),
        ("class_weights", {"a": "1"}, "but got {'a': '1'}"),
        ("n_classes", 1, "an integer between 2 and 100"),
        ("n_classes", 101, "but got 101"),
        ("positive_class", "", "expected 'auto' or a label"),
        ("positive_class", 1, "but got 1"),
        ("betas", [], "but got []"),
        ("betas", [0], "expected 'auto' or an array of 1 to 10 numbers above 0"),
        ("betas", 1, "but got 1"),
    ],
)
def test_values_out_of_bounds_are_refused(
    client: openai.OpenAI, name: str, value: object, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="but got") as caught:
        create(client, **{name: value})
    assert words in caught.value.message
    assert caught.value.param == f"method.classification.hyperparameters.{name}"


def test_a_head_is_lora_s_on_a_base(client: openai.OpenAI, api: Api, tenant: Tenant) -> None:
    shown = create(client, head=True).model_dump()["method"]
    assert shown["classification"]["hyperparameters"]["head"] is True
    tuned = api.tuned_model(tenant).name
    for body, words in (
        ({"tuning": {"type": "full"}}, "A head is trained with LoRA, not with the tuning 'full'"),
        ({"model": tuned}, "A head begins with a base"),
    ):
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            create(client, head=True, body=body)
        assert caught.value.param == "method.classification.hyperparameters.head"
    with pytest.raises(openai.BadRequestError, match="a model with a head writes no") as caught:
        create(client, head=True, luthier={"probes": [{"prompt": "x"}]})
    assert caught.value.param == "method.classification.hyperparameters.luthier.probes"


def test_a_classifier_goes_on_as_what_it_is(
    client: openai.OpenAI, api: Api, tenant: Tenant
) -> None:
    tuned = api.tuned_model(tenant, kind="classifier").name
    assert create(client, head=True, body={"model": tuned}).model == tuned
    with pytest.raises(openai.BadRequestError, match="'classification' with head: true") as caught:
        create(client, body={"model": tuned})
    assert caught.value.param == "model"
    tunings: list[Any] = [{"type": "lora"}, {"type": "full"}]
    for tuning in tunings:
        with pytest.raises(openai.BadRequestError, match="as what it is only") as caught:
            create(client, head=True, body={"model": tuned, "tuning": tuning})
        assert caught.value.param == "tuning.type"
    with pytest.raises(openai.BadRequestError, match="writes no answers"):
        create(client, head=True, luthier={"probes": [{"prompt": "x"}]}, body={"model": tuned})
