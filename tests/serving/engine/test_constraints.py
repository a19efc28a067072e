"""Choices that follow a grammar: when they end, what stays as it is, and what happens when one cannot go on."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch

from serving.engine.constraints import Constraint, GrammarRefused, GrammarVocabulary, Matcher
from serving.engine.failures import ConstraintFailed
from serving.engine.sampling import Draw, SamplingParams, sample
from serving.engine.sequence import Delta, Generate, News
from tests.serving.grammars import compiled
from tests.serving.parts import GREEDY, choice, choices, make_engine, outcomes, prompt_of
from text.tokenizer import Tokenizer

EOS, START = 258, 257
FOREVER = {"type": "array", "items": {"enum": [0]}, "minItems": 1000}


@pytest.fixture(scope="module")
def grammar_vocabulary(base_path: Path, tokenizer: Tokenizer) -> GrammarVocabulary:
    return GrammarVocabulary(
        base_path / "tokenizer.json", vocab_size=259, stop_ids=tokenizer.stop_ids
    )


def asked(constraint: Constraint, seed: int = 0, **more: object) -> Generate:
    told: dict[str, object] = {
        "prompt": prompt_of(6, seed),
        "max_tokens": 60,
        "sampling": SamplingParams(seed=seed),
        "constraint": constraint,
    }
    return Generate(**{**told, **more})  # type: ignore[arg-type]


def test_what_is_complete_ends_at_once_and_what_may_end_ends_with_its_token(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    complete = choice(engine, asked(compiled.of_regex(grammar_vocabulary, "(ab|cd)e")))
    assert complete.text in ("abe", "cde")
    assert (complete.last.finish_reason, complete.usage.completion_tokens) == ("stop", 3)
    # As soon as it may end, it wants to.
    wants_to_end = SamplingParams(temperature=0, logit_bias={EOS: 100})
    may_end = compiled.of_regex(grammar_vocabulary, "[a-c]{2,9}")
    ended = choice(engine, asked(may_end, sampling=wants_to_end))
    assert len(ended.text) == 2
    assert (ended.last.finish_reason, ended.usage.completion_tokens) == ("stop", 3)
    never_wants_to = SamplingParams(temperature=0, logit_bias={EOS: -100})
    assert len(choice(engine, asked(may_end, sampling=never_wants_to)).text) == 9


def test_the_last_token_that_is_allowed_may_complete_it(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    constraint = compiled.of_regex(grammar_vocabulary, "abc")
    cut, whole = choices(engine, [asked(constraint, max_tokens=n) for n in (2, 3)])
    assert (cut.text, cut.last.finish_reason) == ("ab", "length")
    assert (whole.text, whole.last.finish_reason) == ("abc", "stop")


def test_choices_of_one_constraint_and_of_none_do_not_disturb_each_other(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    letters = compiled.of_regex(grammar_vocabulary, "[a-z]{20}")
    digits = compiled.of_regex(grammar_vocabulary, "[0-9]{5,30}")
    requests = [
        asked(constraint, seed)  # type: ignore[arg-type]
        for seed, constraint in enumerate((letters, None, digits, letters, None, digits))
    ]
    engine = make_engine(base_path, tokenizer)
    together = choices(engine, requests)
    alone = [choice(engine, request) for request in requests]
    assert [one.text for one in together] == [one.text for one in alone]
    assert together[0].text != together[3].text
    assert together[0].text.isalpha()
    assert together[2].text.isdecimal()


def test_stop_strings_cut_and_the_text_is_held_back_for_them(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    constraint = compiled.of_regex(grammar_vocabulary, "abcabd!")
    engine = make_engine(base_path, tokenizer)
    cut, whole = choices(
        engine, [asked(constraint, stop=("bd",)), asked(constraint, stop=("!!", "x"))]
    )
    assert (cut.text, cut.last.finish_reason) == ("abca", "stop")
    # What was held back for a stop string comes with the end.
    assert (whole.text, whole.last.finish_reason) == ("abcabd!", "stop")


def test_log_probabilities_are_the_models_own(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    params = SamplingParams(temperature=0.0, num_logprobs=3)
    request = asked(compiled.of_regex(grammar_vocabulary, "[xyz]"), sampling=params)
    (free,) = next(iter(engine.generate(asked(None, sampling=params, max_tokens=1)))).tokens  # type: ignore[arg-type]
    (held,) = next(iter(engine.generate(request))).tokens
    assert free.logprob is not None
    assert held.logprob is not None
    assert held.logprob.top == free.logprob.top
    assert chr(held.token_id) in "xyz"
    assert held.logprob.logprob < free.logprob.logprob


def test_a_mask_leaves_nothing_of_what_is_not_allowed() -> None:
    bits = torch.zeros(36, dtype=torch.uint8)
    for token_id in (5, 77, 258):
        bits[token_id // 8] |= 1 << token_id % 8
    logits = torch.zeros(300, 259)
    logits[:, :5] = 50.0
    draws = [
        Draw(
            SamplingParams(seed=i, temperature=(i % 3) * 0.9, top_p=(0.1, 1.0)[i % 2]), i, {}, bits
        )
        for i in range(300)
    ]
    found = {token_id for token_id, _ in sample(logits, draws)}
    assert found == {5, 77, 258}
    assert logits.isfinite().all()


def test_special_tokens_that_a_grammar_spells_are_written_and_shown_on_demand(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    constraint = compiled.of_lark(grammar_vocabulary, 'start: <|im_start|> "a"')
    shown, hidden = choices(
        engine, [asked(constraint, shown_ids=frozenset(ids)) for ids in ([START], [])]
    )
    assert (shown.text, hidden.text) == ("<|im_start|>a", "a")
    assert shown.ids == hidden.ids == [START, ord("a")]


def test_a_choice_that_waits_its_turn_in_between_goes_on_where_it_was(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    """Two projects whose keys and values do not fit side by side take places from each other."""
    constraint = compiled.of_schema(grammar_vocabulary, {"type": "array", "items": {"enum": [10]}, "minItems": 30, "maxItems": 30})  # fmt: skip
    engine = make_engine(base_path, tokenizer, kv_tokens=160, max_seq_len=160)
    requests = [asked(constraint, seed, max_tokens=100, cache_salt=f"p{seed}", sampling=SamplingParams(seed=seed, logit_bias=dict.fromkeys(b" \n\t", -100.0))) for seed in range(2)]  # fmt: skip
    for one in choices(engine, requests):
        assert json.loads(one.text) == [10] * 30


def test_a_grammar_that_grows_too_complex_ends_its_own_choices_alone(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    # Each of its letters may end as many parts as there are letters.
    hostile = compiled.of_lark(grammar_vocabulary, 'start: s\ns: s s | "a"')
    sound = compiled.of_regex(grammar_vocabulary, "[a-z]{50}")
    never_ends = SamplingParams(temperature=0, logit_bias={EOS: -100, 256: -100})
    engine = make_engine(base_path, tokenizer)
    found = outcomes(
        engine,
        [asked(hostile, sampling=never_ends, max_tokens=500), asked(sound), asked(sound, 1)],
    )
    assert isinstance(found[0], ConstraintFailed)
    for one in found[1:]:
        assert not isinstance(one, Exception)
        assert len(one.text) == 50
    assert engine.is_idle


def test_masks_that_take_too_long_end_their_choice(
    grammar_vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr("time.thread_time", lambda: now_s[0])
    matcher = compiled.of_regex(grammar_vocabulary, "a*").matcher()

    class Slow:
        def __getattr__(self, name: str) -> object:
            now_s[0] += 0.002
            return getattr(inner, name)

    inner, matcher._matcher = matcher._matcher, Slow()  # type: ignore[assignment]

    def follow() -> None:
        for _ in range(1000):
            matcher.mask()
            matcher.accept(ord("a"))

    with pytest.raises(ConstraintFailed, match="too long"):
        follow()


def test_what_is_cancelled_on_the_way_leaves_nothing(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    constraint = compiled.of_schema(grammar_vocabulary, FOREVER)
    news: list[News] = []
    sequences = [engine.prepare(asked(constraint, seed), news.append) for seed in range(4)]
    for sequence in sequences:
        engine.submit(sequence)
    for _ in range(5):
        engine.step()
    matchers = [weakref.ref(sequence.matcher) for sequence in sequences if sequence.matcher]
    assert len(matchers) == 4
    assert any(isinstance(one, Delta) and one.text for one in news)
    for sequence in sequences:
        engine.cancel(sequence)
    assert engine.is_idle
    sequences.clear()
    del sequence
    gc.collect()
    assert [matcher() for matcher in matchers] == [None] * 4


def test_what_no_text_fits_is_refused(grammar_vocabulary: GrammarVocabulary) -> None:
    with pytest.raises(GrammarRefused):
        Constraint(grammar_vocabulary, "start: start")


def test_a_tokenizer_that_is_not_understood_has_no_grammars(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(GrammarRefused, match="tokenizer"):
        GrammarVocabulary(tmp_path / "tokenizer.json", vocab_size=10, stop_ids=[1])
    with pytest.raises(GrammarRefused, match="ends a text"):
        GrammarVocabulary(tmp_path / "tokenizer.json", vocab_size=10, stop_ids=[])


def test_greedy_choices_take_the_most_probable_token_that_is_allowed(
    base_path: Path, tokenizer: Tokenizer, grammar_vocabulary: GrammarVocabulary
) -> None:
    engine = make_engine(base_path, tokenizer)
    request = asked(compiled.of_regex(grammar_vocabulary, "[a-z]"), sampling=GREEDY)
    found = choice(engine, request)
    scored = Generate(prompt=[*request.prompt, 0], max_tokens=0, num_prompt_logprobs=259)
    deltas = list(engine.generate(scored))
    entries = [entry for delta in deltas for entry in delta.prompt_logprobs or ()]
    assert entries[-1] is not None
    by_token = dict(entries[-1].top)
    assert found.ids == [max(range(ord("a"), ord("z") + 1), key=by_token.__getitem__)]


def test_a_matcher_is_as_good_as_new_for_each_choice(grammar_vocabulary: GrammarVocabulary) -> None:
    constraint = compiled.of_regex(grammar_vocabulary, "ab")
    first, second = constraint.matcher(), constraint.matcher()
    assert isinstance(first, Matcher)
    first.accept(ord("a"))
    first.accept(ord("b"))
    assert (first.is_complete, second.is_complete) == (True, False)
    second.accept(ord("a"))
    with pytest.raises(ConstraintFailed):
        second.accept(ord("x"))
