from __future__ import annotations

from pathlib import Path

import pytest
import torch

from serving.engine.failures import ContextLengthExceeded, InvalidPrompt, ModelGone
from serving.engine.limits import Limits
from serving.engine.sampling import SamplingParams
from serving.engine.schedule import Scheduler
from serving.engine.sequence import Delta, Generate, News
from serving.engine.slots.lora import Adapter
from tests.serving.parts import (
    GREEDY,
    choice,
    choices,
    expected_ids,
    greedy,
    load_model,
    make_engine,
    prompt_of,
    read_adapter,
    write_adapter,
)
from text.tokenizer import Tokenizer


def test_base_and_adapters_in_one_batch_say_what_peft_says(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    cases = [
        (prompt_of(length, seed), number)
        for seed, length in enumerate((1, 40, 300))
        for number in (None, 0, 1)
    ]
    engine = make_engine(base_path, tokenizer)
    found = choices(
        engine,
        (
            greedy(prompt, adapter=None if number is None else adapters[number])
            for prompt, number in cases
        ),
    )
    assert engine.stats().num_steps < 60  # they did run side by side
    expected = [
        expected_ids(base_path, prompt, adapter=None if number is None else adapter_folders[number])
        for prompt, number in cases
    ]
    assert [one.ids for one in found] == expected
    # The adapters do change what is said, or this test would show nothing.
    assert len({tuple(ids) for ids in expected[-3:]}) == 3


def test_sequences_that_join_at_different_steps_do_not_disturb_each_other(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    prompts = [prompt_of(30 + 50 * i, seed=i) for i in range(3)]
    engine = make_engine(base_path, tokenizer)
    found: list[list[News]] = [[] for _ in prompts]
    for i, prompt in enumerate(prompts):
        request = greedy(prompt, max_tokens=24, adapter=adapters[1] if i % 2 else None)
        engine.submit(engine.prepare(request, found[i].append))
        for _ in range(3):
            engine.step()
    while not engine.is_idle:
        engine.step()
    ids = [
        [token.token_id for delta in deltas if isinstance(delta, Delta) for token in delta.tokens]
        for deltas in found
    ]
    assert ids == [
        expected_ids(
            base_path, prompt, max_tokens=24, adapter=adapter_folders[1] if i % 2 else None
        )
        for i, prompt in enumerate(prompts)
    ]


def test_reused_prefix_gives_the_same_output(base_path: Path, tokenizer: Tokenizer) -> None:
    prefix = prompt_of(400)
    prompts = [[*prefix, *prompt_of(20, seed)] for seed in range(1, 7)]
    engine = make_engine(base_path, tokenizer)
    found = choices(engine, map(greedy, prompts))
    again = choice(engine, greedy(prompts[0]))
    assert [one.ids for one in found] == [expected_ids(base_path, prompt) for prompt in prompts]
    assert again.ids == found[0].ids
    assert again.usage.cached_tokens == len(prompts[0]) - 1
    # The prefix was read once, although all requests came at the same time.
    assert engine.stats().num_computed_tokens < 400 + 6 * (20 + 16) + 20


def test_adapters_and_tenants_never_share_a_prefix(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter], adapter_folders: list[Path]
) -> None:
    prompt = prompt_of(300)
    callers: list[tuple[Adapter | None, str]] = [
        (None, ""),
        (None, "proj_a"),
        (adapters[0], ""),
        (adapters[0], "proj_a"),
        (adapters[1], ""),
    ]
    requests = [greedy(prompt, adapter=adapter, cache_salt=salt) for adapter, salt in callers]
    engine = make_engine(base_path, tokenizer)
    found = [choice(engine, request) for request in requests]
    again = [choice(engine, request) for request in requests]
    assert [one.usage.cached_tokens for one in found] == [0] * 5
    assert [one.usage.cached_tokens for one in again] == [299] * 5
    assert [one.ids for one in again] == [one.ids for one in found]
    base, a, b = (
        expected_ids(base_path, prompt, adapter=folder) for folder in (None, *adapter_folders)
    )
    assert [one.ids for one in found] == [base, base, a, a, b]


def test_more_adapters_than_slots_all_get_their_turn(
    base_path: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folders = [write_adapter(base_path, tmp_path / str(i), rank=2 + i, seed=i) for i in range(6)]
    loaded = [read_adapter(base_path, f, f"adapter-{i}") for i, f in enumerate(folders)]
    prompt = prompt_of(20)
    engine = make_engine(base_path, tokenizer, num_slots=2)
    found = choices(engine, (greedy(prompt, adapter=loaded[i % 6]) for i in range(18)))
    assert len(engine.stats().loaded_adapter_ids) == 2
    expected = [expected_ids(base_path, prompt, adapter=folder) for folder in folders]
    assert [one.ids for one in found] == expected * 3


def test_rows_that_outgrow_the_memory_give_way_and_finish(
    base_path: Path, tokenizer: Tokenizer
) -> None:
    prompts = [prompt_of(100, seed) for seed in range(3)]
    engine = make_engine(base_path, tokenizer, kv_tokens=256)
    assert engine.max_seq_len == 256
    found = choices(engine, (greedy(p, max_tokens=60) for p in prompts))
    assert [one.ids for one in found] == [
        expected_ids(base_path, p, max_tokens=60) for p in prompts
    ]


def test_seed_decides_whatever_else_runs(base_path: Path, tokenizer: Tokenizer) -> None:
    def request(seed: int, choice: int = 0) -> Generate:
        sampling = SamplingParams(temperature=1.0, top_p=0.95, seed=seed, choice=choice)
        return Generate(prompt=prompt_of(20), max_tokens=30, sampling=sampling)

    engine = make_engine(base_path, tokenizer)
    alone = choice(engine, request(11))
    crowd = choices(engine, [*map(request, (11, 12, 13)), request(11, choice=1)])
    assert crowd[0].ids == alone.ids
    assert len({tuple(one.ids) for one in crowd}) == 4


def test_stop_string_ends_the_text_before_it(base_path: Path, tokenizer: Tokenizer) -> None:
    prompt = prompt_of(20, seed=3)
    engine = make_engine(base_path, tokenizer)
    text = choice(engine, greedy(prompt, max_tokens=60)).text
    stop = text[20:24]
    stopped = choice(engine, Generate(prompt=prompt, max_tokens=60, sampling=GREEDY, stop=(stop,)))
    assert stopped.text == text[: text.index(stop)]
    assert stopped.last.finish_reason == "stop"
    assert stopped.usage.completion_tokens < 60


def test_end_token_ends_the_choice(base_path: Path, tokenizer: Tokenizer) -> None:
    (eos_id,) = tokenizer.eos_ids
    sampling = SamplingParams(temperature=0.0, logit_bias={eos_id: 100.0})
    engine = make_engine(base_path, tokenizer)
    found = choice(engine, Generate(prompt=prompt_of(5), max_tokens=10, sampling=sampling))
    assert (found.ids, found.text, found.last.finish_reason) == ([], "", "stop")
    assert found.usage.completion_tokens == 1


def test_the_end_of_a_document_ends_the_choice(base_path: Path) -> None:
    tokenizer = Tokenizer.load(base_path, document_end="<|im_start|>")
    end_id = tokenizer.document_end_id
    assert end_id is not None
    assert end_id not in tokenizer.eos_ids
    sampling = SamplingParams(temperature=0.0, logit_bias={end_id: 100.0})
    engine = make_engine(base_path, tokenizer)
    found = choice(engine, Generate(prompt=prompt_of(5), max_tokens=10, sampling=sampling))
    assert (found.text, found.last.finish_reason) == ("", "stop")
    assert found.usage.completion_tokens == 1


def test_prompt_logprobs_are_those_of_the_model(base_path: Path, tokenizer: Tokenizer) -> None:
    prompt = prompt_of(300)
    model = load_model(base_path, "sdpa")
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    engine = make_engine(base_path, tokenizer)
    # With the prefix at hand, everything is computed again nonetheless.
    choice(engine, greedy(prompt))
    for max_tokens in (0, 1):
        request = Generate(
            prompt=prompt, max_tokens=max_tokens, sampling=GREEDY, num_prompt_logprobs=2
        )
        deltas = list(engine.generate(request))
        entries = deltas[0].prompt_logprobs
        assert entries is not None
        assert len(entries) == 300
        assert entries[0] is None
        for position, entry in enumerate(entries[1:], start=1):
            assert entry is not None
            expected = float(logprobs[position - 1, prompt[position]])
            assert entry.logprob == pytest.approx(expected, abs=1e-4)
            assert [i for i, _ in entry.top] == logprobs[position - 1].topk(2).indices.tolist()
        assert deltas[-1].finish_reason == "length"


def test_what_stands_before_the_first_scored_token_is_computed_once(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    """Each ending scores as if it were alone, whether its beginning is at hand, is coming, or was asked for as a chat."""
    prompt, endings = prompt_of(300), [prompt_of(n, seed=n) for n in (1, 2, 9, 40)]

    def request(ending: list[int], first_scored: int) -> Generate:
        return Generate(
            prompt=[*prompt, *ending],
            max_tokens=0,
            adapter=adapters[0],
            num_prompt_logprobs=0,
            first_scored=first_scored,
        )

    def scores(delta: Delta) -> list[float]:
        assert delta.prompt_logprobs is not None
        return [entry.logprob for entry in delta.prompt_logprobs[len(prompt) :] if entry]

    alone = make_engine(base_path, tokenizer)
    expected = [scores(next(iter(alone.generate(request(e, 1))))) for e in endings]
    # A step holds fewer tokens than the beginning.
    engine = make_engine(base_path, tokenizer, limits=Limits(step_tokens=64))
    for _ in range(2):
        before = engine.stats().num_computed_tokens
        found: list[list[News]] = [[] for _ in endings]
        for ending, news in zip(endings, found, strict=True):
            engine.submit(engine.prepare(request(ending, len(prompt)), news.append))
        while not engine.is_idle:
            engine.step()
        for news, wanted, ending in zip(found, expected, endings, strict=True):
            assert isinstance(news[0], Delta)
            assert len(scores(news[0])) == len(ending)
            assert scores(news[0]) == pytest.approx(wanted, abs=1e-4)
        num_computed = engine.stats().num_computed_tokens - before
        # The last token of the beginning predicts the first that is scored.
        of_endings = sum(len(ending) + 1 for ending in endings)
        assert num_computed <= of_endings + (len(prompt) if before == 0 else 0)
        choice(engine, greedy(prompt, adapter=adapters[0], max_tokens=4))


@pytest.mark.parametrize("num_prompt_logprobs", [None, 0])
def test_no_tokens_wanted_gives_an_empty_choice(
    base_path: Path, tokenizer: Tokenizer, num_prompt_logprobs: int | None
) -> None:
    engine = make_engine(base_path, tokenizer)
    for length in (1, 5):
        request = Generate(
            prompt=prompt_of(length), max_tokens=0, num_prompt_logprobs=num_prompt_logprobs
        )
        found = choice(engine, request)
        assert (found.ids, found.text, found.last.finish_reason) == ([], "", "length")
        assert found.usage.prompt_tokens == length


def test_context_is_filled_where_no_limit_is_given(base_path: Path, tokenizer: Tokenizer) -> None:
    engine = make_engine(base_path, tokenizer, max_seq_len=64)
    sampling = SamplingParams(temperature=0.0, logit_bias=dict.fromkeys(tokenizer.eos_ids, -100.0))
    found = choice(engine, Generate(prompt=prompt_of(60), sampling=sampling))
    assert (found.last.finish_reason, found.usage.completion_tokens) == ("length", 4)


def test_request_beyond_the_context_is_refused(base_path: Path, tokenizer: Tokenizer) -> None:
    engine = make_engine(base_path, tokenizer, max_seq_len=64)
    for prompt_tokens, max_tokens in ((64, None), (60, 5), (100, 0)):
        request = Generate(prompt=prompt_of(prompt_tokens), max_tokens=max_tokens)
        with pytest.raises(ContextLengthExceeded, match="do not fit a context of 64"):
            choice(engine, request)


@pytest.mark.parametrize("prompt", [[], [-1], [3, 259]])
def test_token_ids_that_the_model_does_not_have_are_refused(
    base_path: Path, tokenizer: Tokenizer, prompt: list[int]
) -> None:
    engine = make_engine(base_path, tokenizer)
    with pytest.raises(InvalidPrompt, match="between 0 and 258"):
        choice(engine, Generate(prompt=prompt))


def test_cancelled_sequences_free_everything(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    engine = make_engine(base_path, tokenizer, limits=Limits(max_running=1))
    request = greedy(prompt_of(5), max_tokens=1000, adapter=adapters[0])
    news: list[News] = []
    running, waiting = (engine.prepare(request, news.append) for _ in range(2))
    for sequence in (running, waiting):
        engine.submit(sequence)
    engine.step()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 1)
    for sequence in (running, waiting, running):
        engine.cancel(sequence)
    assert engine.is_idle
    engine.unload("adapter-a")
    assert engine.stats().num_kv_tokens_used == 0


def test_who_reads_no_further_cancels(base_path: Path, tokenizer: Tokenizer) -> None:
    engine = make_engine(base_path, tokenizer)
    deltas = engine.generate(greedy(prompt_of(5), max_tokens=1000))
    next(deltas)
    assert not engine.is_idle
    del deltas
    assert engine.is_idle


def test_unloading_forgets_slot_and_prefixes(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    request = greedy(prompt_of(100), adapter=adapters[0])
    engine = make_engine(base_path, tokenizer)
    choice(engine, request)
    engine.unload("adapter-a")
    assert engine.stats().loaded_adapter_ids == ()
    assert choice(engine, request).usage.cached_tokens == 0


def test_unloading_ends_what_uses_the_adapter_and_nothing_else(
    base_path: Path, tokenizer: Tokenizer, adapters: list[Adapter]
) -> None:
    """Running, waiting, and reading what another one has computed."""
    engine = make_engine(base_path, tokenizer, limits=Limits(max_running=3))
    news: list[list[News]] = [[] for _ in range(5)]
    for number, adapter in enumerate((None, *adapters[:1] * 3, adapters[1])):
        request = greedy(prompt_of(300), max_tokens=20, adapter=adapter)
        engine.submit(engine.prepare(request, news[number].append))
    for _ in range(6):
        engine.step()
    num_used_tokens = engine.stats().num_kv_tokens_used
    engine.unload("adapter-a")
    for of_deleted in news[1:4]:
        assert isinstance(of_deleted[-1], ModelGone)
    stats = engine.stats()
    assert "adapter-a" not in stats.loaded_adapter_ids
    assert (stats.num_running + stats.num_waiting, stats.num_kv_tokens_used) < (
        5,
        num_used_tokens,
    )
    while not engine.is_idle:
        engine.step()
    for of_other in (news[0], news[4]):
        assert isinstance(of_other[-1], Delta)
        assert of_other[-1].finish_reason is not None
    engine.unload("adapter-b")
    assert {row.key.adapter_id for row in engine._cache._kept} == {None}


def test_the_scheduler_hears_how_long_each_step_took(
    base_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, float]] = []
    monkeypatch.setattr(Scheduler, "note_step", lambda _, *step: steps.append(step))
    choice(make_engine(base_path, tokenizer), greedy(prompt_of(300), max_tokens=3))
    assert [num_tokens for num_tokens, _ in steps] == [256, 44, 1, 1]
    assert all(took_s > 0 for _, took_s in steps)
