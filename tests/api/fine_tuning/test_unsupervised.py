"""Jobs on raw text, as the unmodified client creates them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.factories import jsonl

ROWS = jsonl({"text": f"Document {number}."} for number in range(10))


def create(client: openai.OpenAI, **method: Any) -> Any:
    file = client.files.create(file=("texts.jsonl", ROWS), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="tiny-random",
        training_file=file.id,
        extra_body={"method": {"type": "unsupervised", **method}},
    )


def test_what_was_asked_is_shown_again(client: openai.OpenAI) -> None:
    asked = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5, "overlap": 16}
    job = create(client, unsupervised={"hyperparameters": asked})
    assert job.status == "validating_files"
    shown = client.fine_tuning.jobs.retrieve(job.id).model_dump()["method"]
    assert shown["type"] == "unsupervised"
    assert shown["unsupervised"] == {"hyperparameters": asked}
    assert not shown.get("supervised")


def test_what_was_not_asked_is_auto(client: openai.OpenAI) -> None:
    silent: list[dict[str, Any]] = [{}, {"unsupervised": {}}]
    for options in (*silent, {"unsupervised": {"hyperparameters": {"overlap": None}}}):
        shown = create(client, **options).model_dump()["method"]
        names = ("n_epochs", "batch_size", "learning_rate_multiplier", "overlap")
        assert shown["unsupervised"]["hyperparameters"] == dict.fromkeys(names, "auto")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("overlap", "half", "expected 'auto' or an integer between 0 and 2147483647, but got 'half' instead"),
        ("overlap", -1, "but got -1"),
        ("overlap", 1.5, "but got 1.5"),
        ("overlap", 1025, "expected an overlap of 1024 at most, but got 1025 instead"),
        ("n_epochs", 0, "but got 0"),
        ("batch_size", 257, "between 1 and 256"),
        ("learning_rate_multiplier", 0, "a number above 0"),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(
    client: openai.OpenAI, name: str, value: object, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match="but got") as caught:
        create(client, unsupervised={"hyperparameters": {name: value}})
    assert words in caught.value.message
    assert caught.value.param == f"method.unsupervised.hyperparameters.{name}"
    assert caught.value.code == "invalid_value"
    create(client, unsupervised={"hyperparameters": {"overlap": 1024}})


def test_a_text_file_is_taken_if_it_is_text_in_utf_8(client: openai.OpenAI) -> None:
    file = client.files.create(file=("TEXT.TXT", b"A text.\n"), purpose="fine-tune")
    assert (file.status, file.filename) == ("processed", "TEXT.TXT")
    job = client.fine_tuning.jobs.create(
        model="tiny-random",
        training_file=file.id,
        extra_body={"method": {"type": "unsupervised"}},
    )
    assert job.status == "validating_files"
    for content, words in (
        ("A text.".encode("utf-16"), "the file is in UTF-16; save it as UTF-8"),
        (b"Stra\xdfe", "probably in WINDOWS-1252"),
        (b"\n \n", "The file is empty"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.files.create(file=("text.txt", content), purpose="fine-tune")
        assert words in caught.value.message
        assert caught.value.param == "file"
    # What is not for training, and of other names, is as ever.
    assert client.files.create(file=("text.txt", b"\xff\xfe"), purpose="user_data").bytes == 2
    with pytest.raises(openai.BadRequestError, match="JSONL format"):
        client.files.create(file=("text.md", b"A text.\n"), purpose="fine-tune")
