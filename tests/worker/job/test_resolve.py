from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.models.architecture import Architecture
from storage.models.artifacts import LORA_TARGETS
from training.messages import Full, Lora, OutputLayers, Prefix, Supervised, Trainable
from worker.endings import JobFailed
from worker.job import resolve as config
from worker.job import trainables
from worker.job.defaults import OF_LORA, OF_TRAINABLES

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
            "tuning": None,
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


def lora_of(resolved: config.Resolved) -> Lora:
    assert isinstance(resolved.config.trainable, Lora)
    return resolved.config.trainable


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
    assert 1 <= size <= OF_LORA.max_batch_size
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
    assert trainables.rank(Architecture.read(SMOLLM2, "llama"), tokens) == rank


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
    assert lora_of(resolved).rank == 256
    # Half of what conversations are learnt at in batches of the size that suits them.
    supervised = config.learning_rate(Architecture.read(SMOLLM2, "llama"), size=16, steps=1250)
    assert resolved.config.learning_rate == pytest.approx(supervised / 2, rel=0.02)
    assert resolved.reasons["n_epochs"] == "the default of the method unsupervised"
    few = raw_text(20, 2000)
    assert (few.config.batch_size, lora_of(few).rank) == (1, 64)
    assert raw_text(10**6, 10**7).config.batch_size == config.MAX_TEXTS
    assert raw_text(20, 2000, n_epochs=3, batch_size=4).config.batch_size == 4


def test_everything_automatic_has_its_reason() -> None:
    resolved = resolve(10, hyperparameters={"n_epochs": "auto"})
    assert resolved.config.n_epochs == 10
    assert resolved.config.batch_size == 1
    assert resolved.config.learning_rate_multiplier == 1.0
    assert resolved.config.warmup_steps == 5
    assert lora_of(resolved).target_modules == LORA_TARGETS
    assert resolved.reasons.keys() == {
        *("n_epochs", "batch_size", "learning_rate_multiplier", "learning_rate"),
        *("rank", "alpha", "targets"),
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
    assert resolved.reasons["tuning"] == "that of the model it goes on from"


ADAPTER = Lora(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("begun", "tuning", "trainable", "is_merged"),
    [
        # "auto" is what the model has; an adapter may grow.
        (
            ADAPTER,
            {"type": "lora", "rank": "auto", "targets": ["v_proj", "q_proj"]},
            ADAPTER,
            False,
        ),
        (ADAPTER, {"type": "lora", "rank": 6}, ADAPTER.model_copy(update={"rank": 6}), False),
        (
            ADAPTER,
            {"type": "lora", "targets": ["q_proj", "v_proj", "o_proj"], "rslora": True},
            Lora(rank=4, alpha=8.0, target_modules=("q_proj", "v_proj", "o_proj"), use_rslora=True),
            False,
        ),
        (
            ADAPTER,
            {"type": "lora", "rank": 2},
            Lora(rank=2, alpha=32.0, target_modules=LORA_TARGETS),
            True,
        ),
        (ADAPTER, {"type": "full"}, Full(), True),
        (ADAPTER, {"type": "output_layers", "blocks": 3}, OutputLayers(num_blocks=3), True),
        (
            OutputLayers(num_blocks=3, train_head=True),
            {"type": "output_layers", "blocks": "auto"},
            OutputLayers(num_blocks=3, train_head=True),
            True,
        ),
        (
            OutputLayers(num_blocks=3, train_head=True),
            {"type": "output_layers", "head": False},
            OutputLayers(num_blocks=2),
            True,
        ),
        (Full(), None, Full(), True),
        (
            Full(),
            {"type": "lora", "rank": 3},
            Lora(rank=3, alpha=32.0, target_modules=LORA_TARGETS),
            True,
        ),
        (Prefix(num_virtual_tokens=4), {"type": "prefix"}, Prefix(num_virtual_tokens=4), False),
        # Together they may have 512.
        (
            ADAPTER.model_copy(update={"rank": 508}),
            {"type": "lora", "targets": ["o_proj"]},
            Lora(rank=4, alpha=32.0, target_modules=("o_proj",)),
            True,
        ),
    ],
    ids=str,
)
def test_what_trains_of_a_job_that_goes_on_from_a_model(
    begun: Trainable, tuning: dict[str, Any] | None, trainable: Trainable, is_merged: bool
) -> None:
    resolved = resolve(init_artifact=begun, tuning=tuning).config.trainable
    assert resolved == trainable
    assert trainables.merges(begun, resolved) == is_merged
    # A second attempt, which goes by what the first one wrote, comes to the same.
    told = trainables.told(resolved)
    assert trainables.merges(begun, resolve(init_artifact=begun, tuning=told).config.trainable) == (
        is_merged
    )


def test_adapters_that_are_too_much_together_fail_the_job() -> None:
    begun = ADAPTER.model_copy(update={"rank": 508})
    with pytest.raises(JobFailed, match="rank 508, and another 8 on top of it make more than 512"):
        resolve(init_artifact=begun, tuning={"type": "lora", "rank": 8, "targets": ["o_proj"]})


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
    assert fields["rank"] == lora_of(resolved).rank
    assert config.from_json(stored, base_path="/bases/base") == resolved.config


def test_lora_as_asked() -> None:
    tuning = {"type": "lora", "rank": 4, "alpha": 8, "targets": ["q_proj"], "rslora": True}
    resolved = resolve(tuning=tuning)
    expected = Lora(rank=4, alpha=8.0, target_modules=("q_proj",), use_rslora=True)
    assert resolved.config.trainable == expected
    assert trainables.told(expected) == tuning
    assert not resolved.reasons.keys() & {"rank", "alpha", "targets"}


@pytest.mark.parametrize(
    ("kind", "expected", "factor"),
    [
        ("prefix", Prefix(num_virtual_tokens=16), 10),
        ("output_layers", OutputLayers(num_blocks=2), 0.2),
        ("full", Full(), 0.1),
    ],
)
def test_each_kind_has_its_rate_batch_and_length(
    kind: str, expected: Trainable, factor: float
) -> None:
    def rate(tuning: str, **asked: Any) -> float:
        found = resolve(10_000, tuning={"type": tuning}, hyperparameters=asked)
        return found.config.learning_rate

    resolved = resolve(10_000, tuning={"type": kind})
    assert resolved.config.trainable == expected
    assert trainables.told(expected)["type"] == kind
    numbers = {"n_epochs": 1, "batch_size": 16}
    assert rate(kind, **numbers) == pytest.approx(rate("lora", **numbers) * factor)
    few, many = (resolve(n, tuning={"type": kind}).config for n in (12, 100_000))
    defaults = OF_TRAINABLES[kind]
    assert few.n_epochs == defaults.max_epochs if kind != "prefix" else 8
    assert many.batch_size == defaults.max_batch_size
    assert defaults.min_batch_size <= resolve(1000, tuning={"type": kind}).config.batch_size


def test_prefix_rates_have_an_end() -> None:
    small = Architecture.read({**SMOLLM2, "hidden_size": 64}, "llama")
    asked = {"batch_size": 32, "n_epochs": 1}
    resolved = resolve(200, tuning={"type": "prefix"}, architecture=small, hyperparameters=asked)
    assert resolved.config.learning_rate == 3e-2


def test_more_blocks_than_the_base_has_are_refused() -> None:
    assert resolve(tuning={"type": "output_layers", "blocks": 30}).config.trainable == OutputLayers(
        num_blocks=30
    )
    with pytest.raises(JobFailed, match="has 30 blocks, fewer than the 31"):
        resolve(tuning={"type": "output_layers", "blocks": 31})


def test_an_adapter_made_elsewhere_goes_on_in_the_highest_of_its_ranks(tmp_path: Path) -> None:
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"]}
    config["rank_pattern"] = {"layers.0.self_attn.q_proj": 12, "layers.1.self_attn.q_proj": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    begun = trainables.of_artifact("lora", {"rank": 4}, tmp_path)
    assert begun == Lora(rank=12, alpha=8.0, target_modules=("q_proj", "v_proj"))
