"""What goes wrong with one sequence is that sequence's trouble alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from serving.engine.engine import MAX_FAILURES, Engine
from serving.engine.failures import NotFinite, SequenceFailed
from serving.engine.sampling import SamplingParams
from serving.engine.schedule import Work
from serving.engine.sequence import Generate
from serving.engine.slots.lora import Adapter
from serving.engine.slots.low_rank import LowRank
from tests.serving.parts import (
    GREEDY,
    Choice,
    choice,
    choices,
    expected_ids,
    greedy,
    huge,
    make_engine,
    outcomes,
    prompt_of,
)
from text.tokenizer import Tokenizer


def test_a_model_whose_output_is_not_finite_fails_alone(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    too_large = huge(adapters[1])
    prompts = [prompt_of(20 + 30 * i, i) for i in range(4)]
    engine = make_engine(base_path, tokenizer)
    sound, broken = (
        list(map(greedy, prompts)),
        [
            Generate(prompt=prompt, adapter=too_large, sampling=sampling, num_prompt_logprobs=num)
            for prompt in prompts
            for sampling in (GREEDY, SamplingParams(temperature=1.0))
            for num in (None, 1)
        ],
    )
    found = outcomes(engine, [*sound, *broken])
    # Nothing of it is left where the next one computes.
    again = choices(engine, sound)
    engine.unload("adapter-huge")
    expected = [expected_ids(base_path, prompt) for prompt in prompts]
    assert _ids(found[:4]) == expected
    assert {type(error) for error in found[4:]} == {NotFinite}
    assert _ids(again) == expected


def test_a_sequence_that_breaks_a_step_fails_alone(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = prompt_of(33, 99)
    forward = Engine._forward

    def fail(engine: Engine, work: list[Work]) -> Tensor:
        if any(item.sequence.request.prompt == poison for item in work):
            raise RuntimeError("out of luck")
        return forward(engine, work)

    monkeypatch.setattr(Engine, "_forward", fail)
    prompts = [prompt_of(20 + 30 * i, i) for i in range(3)]
    broken, *found = outcomes(make_engine(base_path, tokenizer), map(greedy, [poison, *prompts]))
    assert isinstance(broken, SequenceFailed)
    assert _ids(found) == [expected_ids(base_path, prompt) for prompt in prompts]


def test_many_broken_choices_of_one_request_do_not_end_the_engine(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Engine._forward

    def fail(engine: Engine, work: list[Work]) -> Tensor:
        if any(item.sequence.project == "broken" for item in work):
            raise RuntimeError("out of luck")
        return forward(engine, work)

    monkeypatch.setattr(Engine, "_forward", fail)
    broken = [greedy(prompt_of(5, seed), cache_salt="broken") for seed in range(3 * MAX_FAILURES)]
    *errors, found = outcomes(make_engine(base_path, tokenizer), [*broken, greedy(prompt_of(20))])
    assert _ids([found]) == [expected_ids(base_path, prompt_of(20))]
    assert {type(error) for error in errors} == {SequenceFailed}


def test_an_adapter_that_cannot_be_put_into_a_slot_fails_alone(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    """Not even its first layers are left to be taken for the whole of it."""
    *others, (last, pair) = adapters[1].pairs.items()
    wrong = LowRank(pair.a, tuple(torch.zeros(1, 3) for _ in pair.bs))
    misshapen = Adapter("adapter-c", {**dict(others), last: wrong})
    prompt = prompt_of(20)
    engine = make_engine(base_path, tokenizer)
    choice(engine, greedy(prompt, adapter=adapters[1]))
    results = outcomes(
        engine, (greedy(prompt, adapter=adapter) for adapter in (None, misshapen, misshapen))
    )
    assert engine.stats().loaded_adapter_ids == ("adapter-b",)
    found = choice(engine, greedy(prompt, adapter=adapters[1]))
    assert [type(result) for result in results] == [Choice, SequenceFailed, SequenceFailed]
    assert found.ids == expected_ids(base_path, prompt, adapter=adapter_folders[1])


def test_an_engine_at_which_everything_fails_says_so(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Engine, "_forward", fail)
    engine = make_engine(base_path, tokenizer)
    for _ in range(MAX_FAILURES - 1):
        with pytest.raises(SequenceFailed):
            choice(engine, greedy(prompt_of(5)))
    with pytest.raises(RuntimeError, match="everything failed"):
        choice(engine, greedy(prompt_of(5)))


def _ids(found: object) -> list[list[int]]:
    assert isinstance(found, list)
    return [one.ids for one in found if isinstance(one, Choice)]
