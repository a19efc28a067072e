from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.messages import Lora, Supervised
from worker.job import resolve as config
from worker.job.resolve import Architecture

SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def resolve(num_examples: int = 100, **values: Any) -> config.Resolved:
    return config.resolve(
        **{
            "method": "supervised",
            "hyperparameters": {},
            "num_examples": num_examples,
            "num_tokens": 500,
            "num_supervised_tokens": 250,
            "architecture": Architecture.read(SMOLLM2, "llama"),
            "base_model": "base",
            "base_path": "/bases/base",
            "max_seq_len": 2048,
            "seed": 1,
            "init_artifact": None,
            **values,
        }
    )


@pytest.mark.parametrize(
    ("num_examples", "epochs"),
    [(10, 10), (12, 8), (20, 5), (33, 3), (34, 3), (300, 3), (8333, 3), (8334, 2), (25_001, 1)],
)
def test_epochs_follow_openais_cookbook(num_examples: int, epochs: int) -> None:
    assert config.n_epochs(num_examples) == epochs


def test_one_example_gets_no_more_than_25_epochs() -> None:
    assert config.n_epochs(1) == 25


@pytest.mark.parametrize(
    ("num_examples", "size"),
    [(10, 1), (300, 1), (750, 2), (1000, 2), (2000, 4), (10_000, 16), (100_000, 32)],
)
def test_batch_size_is_a_fifth_of_a_percent(num_examples: int, size: int) -> None:
    assert config.batch_size(num_examples, epochs=3) == size


@given(num_examples=st.integers(1, 10**6))
def test_batch_size_leaves_enough_steps_and_is_a_power_of_two(num_examples: int) -> None:
    epochs = config.n_epochs(num_examples)
    size = config.batch_size(num_examples, epochs)
    assert size.bit_count() == 1
    assert 1 <= size <= config.MAX_BATCH_SIZE
    assert size == 1 or config.total_steps(num_examples, size, epochs) >= 50


def test_learning_rate_of_the_default_base() -> None:
    smollm2 = Architecture.read(SMOLLM2, "llama")
    assert config.learning_rate(smollm2, size=16, steps=1000) == pytest.approx(1.32e-3, rel=0.01)
    # Half of it for single examples, half as much again for a short run.
    assert config.learning_rate(smollm2, size=1, steps=1000) == pytest.approx(6.6e-4, rel=0.01)
    assert config.learning_rate(smollm2, size=16, steps=99) == pytest.approx(1.98e-3, rel=0.01)
    qwen = Architecture.read(SMOLLM2, "qwen")
    assert config.learning_rate(qwen, size=16, steps=1000) == pytest.approx(5.5e-4, rel=0.01)


def test_parameters_per_rank_count_both_matrices_of_every_layer() -> None:
    assert Architecture.read(SMOLLM2, "llama").parameters_per_rank == 305_280


@pytest.mark.parametrize(
    ("tokens", "rank"), [(0, 8), (305_280 * 8, 8), (305_280 * 9, 16), (305_280 * 1000, 64)]
)
def test_rank_grows_with_what_there_is_to_learn(tokens: int, rank: int) -> None:
    assert config.rank(Architecture.read(SMOLLM2, "llama"), tokens) == rank


def raw_text(num_examples: int, num_tokens: int, **hyperparameters: Any) -> config.Resolved:
    return resolve(
        num_examples,
        method="unsupervised",
        num_tokens=num_tokens,
        num_supervised_tokens=num_tokens,
        hyperparameters=hyperparameters,
    )


def test_defaults_of_raw_text() -> None:
    resolved = raw_text(40_000, 40_000_000)
    assert resolved.config.n_epochs == 1
    assert resolved.config.batch_size == 32  # of 1,000 tokens each
    assert resolved.config.trainable.rank == 256
    # Half of what conversations are learnt at in batches of the size that suits them.
    supervised = config.learning_rate(Architecture.read(SMOLLM2, "llama"), size=16, steps=1250)
    assert resolved.config.learning_rate == pytest.approx(supervised / 2, rel=0.02)
    assert resolved.reasons["n_epochs"] == "the default of the method unsupervised"
    few = raw_text(20, 2000)
    assert (few.config.batch_size, few.config.trainable.rank) == (1, 64)
    assert raw_text(10**6, 10**7).config.batch_size == config.MAX_TEXTS
    assert raw_text(20, 2000, n_epochs=3, batch_size=4).config.batch_size == 4


def test_everything_automatic_has_its_reason() -> None:
    resolved = resolve(10, hyperparameters={"n_epochs": "auto"})
    assert resolved.config.n_epochs == 10
    assert resolved.config.batch_size == 1
    assert resolved.config.learning_rate_multiplier == 1.0
    assert resolved.config.warmup_steps == 5
    assert resolved.config.trainable.target_modules == config.TARGET_MODULES
    assert resolved.reasons.keys() == {
        *("n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate", "rank"),
    }


def test_what_was_asked_for_is_taken() -> None:
    asked = {"n_epochs": 2, "batch_size": 5, "learning_rate_multiplier": 0.5}
    resolved = resolve(100, hyperparameters=asked)
    assert (resolved.config.n_epochs, resolved.config.batch_size) == (2, 5)
    automatic = resolve(100, hyperparameters={"n_epochs": 2, "batch_size": 5})
    assert resolved.config.learning_rate == pytest.approx(automatic.config.learning_rate / 2)
    assert "n_epochs" not in resolved.reasons


def test_a_methods_own_hyperparameters_are_its_fields() -> None:
    assert config.method_of("supervised", {"n_epochs": 3, "beta": "auto"}) == Supervised()
    with pytest.raises(ValidationError, match="beta"):
        config.method_of("supervised", {"n_epochs": 3, "beta": 0.1})


def test_batch_is_no_larger_than_the_file() -> None:
    assert resolve(12, hyperparameters={"batch_size": 64}).config.batch_size == 12


def test_job_that_goes_on_from_a_model_keeps_its_shape() -> None:
    lora = Lora(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"))
    resolved = resolve(init_artifact=lora)
    assert resolved.config.trainable == lora
    assert resolved.reasons["rank"] == "that of the model it goes on from"


def test_config_comes_back_from_the_row_with_this_machines_path() -> None:
    resolved = resolve()
    stored = json.loads(json.dumps(resolved.to_json()))
    again = config.from_json(stored, base_path="/elsewhere/base")
    assert again.base_path == "/elsewhere/base"
    assert config.from_json(stored, base_path="/bases/base") == resolved.config


def test_config_in_the_row_of_an_earlier_version_goes_on() -> None:
    resolved = resolve()
    stored = json.loads(json.dumps(resolved.to_json()))
    fields = stored["config"]
    fields |= fields.pop("trainable")
    fields["method"] = fields["method"]["kind"]
    del fields["kind"]
    assert fields["rank"] == resolved.config.trainable.rank
    assert config.from_json(stored, base_path="/bases/base") == resolved.config
