"""Adapters at several strengths beside each other in the engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modeling.artifacts import peft_files
from modeling.artifacts.files import read_json, write_json
from serving.engine.slots.lora import Adapter
from tests.serving.parts import choice, choices, expected_ids, greedy, make_engine, prompt_of
from text.tokenizer import Tokenizer


@pytest.fixture
def halved(adapter_folders: list[Path], tmp_path: Path) -> Path:
    """Adapter a in PEFT's files, with half its alpha."""
    config = read_json(adapter_folders[0] / peft_files.CONFIG_NAME)
    write_json(
        tmp_path / peft_files.CONFIG_NAME, {**config, "lora_alpha": config["lora_alpha"] / 2}
    )
    weights = (adapter_folders[0] / peft_files.WEIGHTS_NAME).read_bytes()
    (tmp_path / peft_files.WEIGHTS_NAME).write_bytes(weights)
    return tmp_path


def test_strengths_of_an_adapter_are_computed_side_by_side(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path],
    halved: Path,
) -> None:  # fmt: skip
    engine = make_engine(base_path, tokenizer, num_slots=4)
    prompt = prompt_of(20)
    at = {s: dataclasses.replace(adapters[0], strength=s) for s in (0.0, 0.5, 1.0, 1.5)}
    found = choices(engine, [greedy(prompt, adapter=at[s]) for s in at] + [greedy(prompt)])
    ids = [each.ids for each in found]
    assert ids[0] == ids[4] == expected_ids(base_path, prompt)
    assert ids[1] == expected_ids(base_path, prompt, adapter=halved)
    assert ids[2] == expected_ids(base_path, prompt, adapter=adapter_folders[0])
    assert len({tuple(each) for each in ids[:4]}) == 4


def test_each_strength_has_a_slot_and_computed_beginnings_of_its_own(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    engine = make_engine(base_path, tokenizer, num_slots=4)
    soft = dataclasses.replace(adapters[0], strength=0.5)
    whole = dataclasses.replace(adapters[0], strength=1.0)
    cached = [
        choice(engine, greedy(prompt_of(100), max_tokens=1, adapter=each)).usage.cached_tokens
        for each in (adapters[0], soft, whole, soft)
    ]
    assert [n > 0 for n in cached] == [False, False, True, True]
    assert engine.stats().loaded_adapter_ids == (adapters[0].id, adapters[0].id)
    engine.unload(adapters[0].id)
    assert engine.stats().loaded_adapter_ids == ()
    request = greedy(prompt_of(100), max_tokens=1, adapter=soft)
    assert choice(engine, request).usage.cached_tokens == 0
