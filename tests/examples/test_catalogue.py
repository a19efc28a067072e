"""The examples: that there is one for everything, and that their README tells the same."""

from __future__ import annotations

import pytest

from api.fine_tuning.tuning import OPTIONS
from dataset.metrics import EPOCH_METRICS
from examples import catalogue
from examples.__main__ import main
from examples.catalogue import EXAMPLES, FOLDER, Example


def test_every_method_has_an_example() -> None:
    assert {example.method for example in EXAMPLES} == set(EPOCH_METRICS)


def test_every_kind_of_tuning_has_an_example() -> None:
    tunings = {(example.tuning or {"type": "lora"})["type"] for example in EXAMPLES}
    assert tunings == set(OPTIONS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_readme_has_its_data_its_command_and_what_is_expected(example: Example) -> None:
    lines = (FOLDER / "README.md").read_text("utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{example.name}` |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert f"({example.training.split('/')[0]}/README.md)" in cells[1]
    assert f"make examples ONLY={example.name}" in cells[2]
    assert cells[3].startswith(f"{example.figure}: {example.bound}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_no_more_rows_are_uploaded_than_it_says(example: Example) -> None:
    whole = (FOLDER / example.training).read_bytes()
    content = example.content()
    assert whole.startswith(content)
    if example.max_rows is not None:
        assert len(content.splitlines()) == example.max_rows


def test_examples_are_found_by_their_names_in_the_order_of_the_catalogue() -> None:
    assert catalogue.named([]) == EXAMPLES
    assert [example.name for example in catalogue.named(["full", "dpo"])] == ["dpo", "full"]


def test_an_unknown_name_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ppo"])
    assert ended.value.code == 2
    assert "no example 'ppo'; there are supervised, unsupervised" in capsys.readouterr().err
