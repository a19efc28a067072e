from __future__ import annotations

import json

from tests.client.fake_api import MODEL, FakeApi

from .conftest import Run


def test_labels_of_a_text_stand_by_their_probability(luthier: Run, api: FakeApi) -> None:
    assert luthier("classify", MODEL, "It is late").stdout == "angry  0.7500\ncalm   0.2500\n"
    assert luthier("classify", MODEL, "Thanks").stdout == "calm   0.7500\nangry  0.2500\n"
    assert api.requests[0] == ("classifications", {"model": MODEL, "input": "It is late"})


def test_lines_of_a_pipe_are_texts_however_many(luthier: Run, api: FakeApi) -> None:
    lines = ["It is late", "", *(f"Thanks, {number}" for number in range(300))]
    told = luthier("classify", MODEL, input="\n".join(lines)).stdout.splitlines()
    assert told[:2] == ["angry  0.7500  It is late", "calm  0.7500  Thanks, 0"]
    assert len(told) == 301
    assert [len(body["input"]) for _, body in api.requests] == [256, 45]


def test_json_is_the_server_s_own(luthier: Run) -> None:
    whole = json.loads(luthier("classify", MODEL, "Thanks", "--json").stdout)
    assert whole["data"][0]["label"] == "calm"
    (line,) = luthier("classify", MODEL, "--json", input="It is late").stdout.splitlines()
    assert json.loads(line)["text"] == "It is late"


def test_a_model_that_is_not_there_is_one_line(luthier: Run) -> None:
    result = luthier("classify", "none", "Thanks")
    assert (result.exit_code, result.stderr) == (1, "Error: The model `none` does not exist\n")
