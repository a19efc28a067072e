from __future__ import annotations

from collections import Counter

import pytest
import torch

from serving.engine.sampling import (
    Draw,
    SamplingParams,
    are_finite,
    random_number,
    sample,
    token_logprobs,
)

VOCAB_SIZE = 50


def logits_of(seed: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 2


def draw(position: int = 0, counts: Counter[int] | None = None, **params: object) -> Draw:
    return Draw(SamplingParams(**params), position, counts or Counter())  # type: ignore[arg-type]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    logits = logits_of(0)
    assert sample(logits, [draw(temperature=0.0)])[0][0] == int(logits.argmax())


def test_same_seed_gives_the_same_token_whatever_else_is_in_the_batch() -> None:
    logits = logits_of(1, rows=3)
    request = draw(seed=7, top_p=0.9)
    alone = sample(logits[:1], [request])[0]
    together = sample(logits, [request, draw(seed=8), draw(temperature=0.0)])[0]
    assert alone == together


def test_seeds_positions_and_choices_give_different_numbers() -> None:
    numbers = {
        random_number(seed, choice, position)
        for seed in (-5, 3)
        for choice in (0, 1)
        for position in (0, 1)
    }
    assert len(numbers) == 8
    assert all(0 <= number < 1 for number in numbers)


def test_frequencies_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]]))
    num_draws = 4000
    draws = [draw(position, seed=3) for position in range(num_draws)]
    found = Counter(token for token, _ in sample(logits.expand(num_draws, -1), draws))
    assert found[3] == 0
    for token, probability in enumerate((0.5, 0.3, 0.2)):
        assert found[token] / num_draws == pytest.approx(probability, abs=0.03)


def test_top_p_draws_from_the_nucleus_only() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.1, 0.35, 0.15]]))
    draws = [draw(position, seed=1, top_p=0.7) for position in range(300)]
    assert {token for token, _ in sample(logits.expand(300, -1), draws)} == {0, 2}


def test_top_p_zero_draws_the_most_probable_token() -> None:
    logits = logits_of(2)
    assert sample(logits, [draw(seed=1, top_p=0.0)])[0][0] == int(logits.argmax())


def test_top_p_of_a_flat_distribution_looks_beyond_the_usual_nucleus() -> None:
    logits = torch.zeros(200, 2000)
    draws = [draw(position, seed=5, top_p=0.9) for position in range(200)]
    assert len({token for token, _ in sample(logits, draws)}) > 100


def test_logit_bias_forces_and_bans() -> None:
    logits = logits_of(3)
    best = int(logits.argmax())
    forced = draw(temperature=0.0, logit_bias={11: 100.0})
    banned = draw(temperature=0.0, logit_bias={best: -100.0})
    assert sample(logits, [forced])[0][0] == 11
    assert sample(logits, [banned])[0][0] != best


def test_penalties_count_what_was_generated() -> None:
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    once = Counter({0: 1})
    thrice = Counter({0: 3})
    assert sample(logits, [draw(temperature=0.0, counts=once, presence_penalty=0.4)])[0][0] == 0
    assert sample(logits, [draw(temperature=0.0, counts=once, presence_penalty=0.6)])[0][0] == 1
    assert sample(logits, [draw(temperature=0.0, counts=once, frequency_penalty=0.2)])[0][0] == 0
    assert sample(logits, [draw(temperature=0.0, counts=thrice, frequency_penalty=0.2)])[0][0] == 1


def test_logprobs_are_the_models_own_whatever_changes_the_draw() -> None:
    logits = logits_of(4)
    request = draw(seed=2, temperature=1.7, top_p=0.5, logit_bias={3: 50.0}, num_logprobs=5)
    token_id, entry = sample(logits, [request])[0]
    expected = logits.log_softmax(-1)[0]
    assert token_id == 3
    assert entry is not None
    assert entry.logprob == pytest.approx(float(expected[3]))
    assert [i for i, _ in entry.top] == expected.topk(5).indices.tolist()


def test_chosen_and_top_logprob_are_equal_for_the_greedy_token() -> None:
    logits = logits_of(5, rows=2)
    best = logits.argmax(-1).tolist()
    for entry in token_logprobs(logits, best, [1, 1]):
        assert entry.top == ((entry.token_id, entry.logprob),)


def test_sampling_leaves_the_logits_alone() -> None:
    logits = logits_of(6)
    before = logits.clone()
    sample(logits, [draw(seed=1, logit_bias={1: 5.0}, top_p=0.5)])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("scale", [1.0, 1e10, 1e37])
@pytest.mark.parametrize("temperature", [2e-5, 1.0, 2.0])
def test_whatever_the_logits_a_token_of_the_vocabulary_is_drawn(
    scale: float, temperature: float
) -> None:
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(1)) * scale
    draws = [
        Draw(SamplingParams(temperature=temperature, top_p=p, seed=seed), 0, {})
        for seed in range(32)
        for p in (1.0, 0.5)
    ]
    assert all(0 <= token_id < 50 for token_id, _ in sample(logits, draws))


def test_rows_that_are_not_finite_are_told_from_the_others() -> None:
    logits = torch.zeros(4, 50)
    logits[1, 7] = torch.nan
    logits[2, 7] = torch.inf
    logits[3, 7] = -torch.inf
    assert are_finite(logits) == [True, False, False, False]
