"""What a job may ask of a base's size, which the api knows where the base's config.json is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from foundation.settings import Settings
from storage.models import architecture
from storage.models.base_models import BaseModel
from tests.api.stack import Tenant, running_api
from tests.factories import colour_rows, jsonl

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 262,
}


def write_config(bases_dir: Path, content: str) -> None:
    (bases_dir / "tiny-random").mkdir(parents=True, exist_ok=True)
    (bases_dir / "tiny-random" / "config.json").write_text(content)


def test_what_the_base_has_no_room_for_is_refused_with_the_limit(
    settings: Settings, tenant: Tenant, tmp_path: Path
) -> None:
    with running_api(settings.replace(bases_dir=tmp_path)) as front, front.client(tenant) as client:
        file = client.files.create(file=("rows.jsonl", jsonl(colour_rows(10))), purpose="fine-tune")

        def create(**tuning: Any) -> None:
            client.fine_tuning.jobs.create(
                model="tiny-random", training_file=file.id, extra_body={"tuning": tuning}
            )

        # The base is not imported yet: the worker will know.
        create(type="output_layers", blocks=3)
        write_config(tmp_path, json.dumps(SHAPE))
        create(type="output_layers", blocks=2)
        create(type="output_layers")
        create(type="lora", rank=64)
        for tuning, param, words in (
            (
                {"type": "output_layers", "blocks": 3},
                "tuning.blocks",
                "has 2 blocks: expected 2 at",
            ),
            ({"type": "lora", "rank": 65}, "tuning.rank", "expected 64 at most, but got 65"),
        ):
            with pytest.raises(openai.BadRequestError, match=words) as caught:
                create(**tuning)
            assert (caught.value.param, caught.value.code) == (param, "invalid_value")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"hidden_size": "x"}', "[" * 100_000])
def test_a_config_that_says_nothing_is_none(tmp_path: Path, content: str) -> None:
    write_config(tmp_path, content)
    base = BaseModel("tiny-random", "builtin:tiny-random")
    assert architecture.known(tmp_path, base) is None
