"""Jobs that tune a prefix, as the unmodified client creates them."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.factories import colour_rows, jsonl

ROWS = jsonl(colour_rows(10))
TEXTS = jsonl({"text": f"Document {number}."} for number in range(10))


def create(client: openai.OpenAI, rows: bytes = ROWS, **body: Any) -> Any:
    file = client.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="tiny-random", training_file=file.id, extra_body=body
    )


@pytest.mark.parametrize("asked", [{}, {"length": None}, {"length": "auto"}, {"length": 24}])
def test_what_was_asked_is_shown_again(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    job = create(client, tuning={"type": "prefix", **asked})
    shown = client.fine_tuning.jobs.retrieve(job.id).model_dump()["tuning"]
    assert shown == {"type": "prefix", "length": asked.get("length") or "auto"}


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"length": 1}, "tuning.length", "between 2 and 512"),
        ({"length": 513}, "tuning.length", "between 2 and 512"),
        ({"length": 2.5}, "tuning.length", "but got 2.5"),
        ({"length": True}, "tuning.length", "but got True"),
        ({"rank": 8}, "tuning.rank", "it has length"),
    ],
)
def test_options_out_of_bounds_are_refused(
    client: openai.OpenAI, asked: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, tuning={"type": "prefix", **asked})
    assert words in caught.value.message
    assert caught.value.param == param


def test_windows_are_what_a_prefix_leaves(client: openai.OpenAI) -> None:
    """tiny-random's context is 2,048 tokens."""

    def texts(overlap: int) -> None:
        hyperparameters = {"hyperparameters": {"overlap": overlap}}
        method = {"type": "unsupervised", "unsupervised": hyperparameters}
        create(client, TEXTS, method=method, tuning={"type": "prefix", "length": 48})

    texts(1000)
    with pytest.raises(openai.BadRequestError, match="an overlap of 1000 at most"):
        texts(1001)
