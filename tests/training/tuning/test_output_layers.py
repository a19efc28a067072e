"""Output layers: what is kept of the frozen part changes nothing but the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from modeling.artifacts import output_layers as files
from modeling.trainable import output_layers
from tests.training import jobs
from training.losses.cross_entropy import cross_entropy
from training.messages import OutputLayers, TrainConfig
from training.primitives import Learner, load_base


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture
def config(base_path: Path) -> TrainConfig:
    return jobs.config(base_path, trainable=OutputLayers(num_blocks=1))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each run through frozen blocks, how many tokens went through."""
    tokens: list[int] = []
    run = output_layers._run

    def counted(trunk: object, blocks: object, states: Tensor, positions: Tensor) -> Tensor:
        if not states.requires_grad and not torch.is_grad_enabled():
            tokens.append(len(states))
        return run(trunk, blocks, states, positions)  # type: ignore[arg-type]

    monkeypatch.setattr(output_layers, "_run", counted)
    return tokens


def steps(learner: Learner, base_path: Path, folder: Path, budget: int) -> dict[str, Tensor]:
    for _ in range(3):
        for batch in jobs.micro_batches(jobs.examples(base_path, folder, 6), budget):
            learner.forward_backward(batch, cross_entropy, 50.0)
        learner.optim_step(1e-3, 1.0)
    return {name: parameter.detach().clone() for name, parameter in learner.parameters.items()}


def test_kept_features_are_computed_once_and_change_no_bit(
    model: PreTrainedModel,
    config: TrainConfig,
    base_path: Path,
    tmp_path: Path,
    computed: list[int],
) -> None:
    without = Learner(model, config)
    computed.clear()
    expected = steps(without, base_path, tmp_path, 150)
    without.close()
    num_computed = sum(computed)
    with_cache = Learner(model, config, tmp_path / "scratch")
    computed.clear()
    found = steps(with_cache, base_path, tmp_path, 150)
    with_cache.close()
    assert sum(computed) == num_computed / 3
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_sequence_s_features_do_not_depend_on_its_neighbours(
    model: PreTrainedModel, config: TrainConfig, base_path: Path, tmp_path: Path
) -> None:
    learner = Learner(model, config, tmp_path / "scratch")
    examples = jobs.examples(base_path, tmp_path, 6)
    alone = Learner(load_base(base_path, "fp32"), config)
    packed = jobs.micro_batches(examples, 10_000)
    assert len(packed) == 1
    assert packed[0].layout.is_shared  # what the first has of it counts for all
    for batch in (*packed, *jobs.micro_batches(examples[::-1], 60)):
        here, there = learner.logprobs(batch), alone.logprobs(batch)
        assert torch.equal(here.logprobs, there.logprobs)
    learner.close()
    alone.close()


def test_without_the_trained_ones_the_model_is_the_base(
    model: PreTrainedModel, base_path: Path, tmp_path: Path
) -> None:
    (batch,) = jobs.micro_batches(jobs.examples(base_path, tmp_path, 4), 10_000)
    plain = Learner(model, jobs.config(base_path))
    expected = plain.logprobs(batch, "base").logprobs
    plain.close()
    trained = OutputLayers(num_blocks=2, train_head=True)
    learner = Learner(model, jobs.config(base_path, trainable=trained))
    steps(learner, base_path, tmp_path, 150)
    policy, base = learner.logprobs(batch).logprobs, learner.logprobs(batch, "base").logprobs
    torch.testing.assert_close(base, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(policy, expected, atol=1e-2)
    learner.close()


def test_a_trained_head_is_no_longer_the_embedding(tied_path: Path, tmp_path: Path) -> None:
    model: Any = load_base(tied_path, "fp32")
    embedding = model.get_input_embeddings().weight
    before = embedding.clone()
    trained = OutputLayers(num_blocks=1, train_head=True)
    learner = Learner(model, jobs.config(tied_path, trainable=trained))
    steps(learner, tied_path, tmp_path, 150)
    files.write(tmp_path / "artifact", learner.artifact())
    learner.close()
    read = files.read(tmp_path / "artifact", model.config)
    assert not torch.equal(read.tensors["lm_head.weight"], embedding.bfloat16())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is embedding
    assert torch.equal(embedding, before)
