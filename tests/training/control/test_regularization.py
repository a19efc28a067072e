"""Dropout and NEFTune: what peft and transformers compute, from draws that a resumed run makes again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from modeling.noise import Dropout, Noise
from modeling.trainable.lora import LoraLinear
from tests.training import jobs
from tests.training.reports import steps_of
from training.messages import Full
from training.primitives import Learner, load_base

NOISE = {"dropout": 0.3, "neftune_noise_alpha": 5.0, "loraplus_ratio": 4.0}


def layer(share: float) -> tuple[LoraLinear, Noise]:
    torch.manual_seed(0)
    linear = LoraLinear(torch.nn.Linear(64, 32), rank=4, scale=2.0)
    torch.nn.init.normal_(linear.lora_A)
    torch.nn.init.normal_(linear.lora_B)
    noise = Noise(seed=7)
    linear.dropout = Dropout(noise, "layer", share)
    return linear, noise


def test_dropout_is_what_peft_computes() -> None:
    linear, noise = layer(0.25)
    x = torch.randn(1, 50, 64)
    with noise.drawn(1, 1):
        assert linear.dropout is not None
        factors = linear.dropout.factors(x)
        assert factors is not None
        y = linear(x)
    assert sorted(set(factors.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    # As peft.tuners.lora.layer.Linear.forward.
    low_rank = (x * factors) @ linear.lora_A.T @ linear.lora_B.T
    torch.testing.assert_close(y, linear.base(x) + 2.0 * low_rank)
    # What is measured is the model as it is, and as it is without dropout.
    plain = linear(x)
    linear.dropout = None
    assert torch.equal(plain, linear(x))


def test_dropout_leaves_out_its_share_and_differs_by_step_pass_and_layer() -> None:
    noise = Noise(seed=7)
    x = torch.ones(1, 500, 200)

    def factors(step: int, number: int, name: str = "q") -> torch.Tensor:
        with noise.drawn(step, number):
            drawn = Dropout(noise, name, 0.2).factors(x)
        assert drawn is not None
        return drawn

    first = factors(1, 1)
    # 100,000 draws: the standard deviation of the share is 0.0013.
    assert (first == 0).float().mean().item() == pytest.approx(0.2, abs=0.007)
    assert first.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(first, factors(1, 1))
    for other in (factors(2, 1), factors(1, 2), factors(1, 1, "k")):
        # Independent ones agree in 0.8² + 0.2² of the places.
        assert (first == other).float().mean().item() == pytest.approx(0.68, abs=0.01)


def test_noise_on_embeddings_has_neftunes_bounds(base_path: Path, tmp_path: Path) -> None:
    model = load_base(base_path, "fp32")
    learner = Learner(model, jobs.config(base_path, neftune_noise_alpha=5.0))
    (batch, *_) = jobs.micro_batches(jobs.examples(base_path, tmp_path, 6), 256)
    embedding = model.get_input_embeddings()
    plain = embedding(batch.input_ids[None])
    with learner._regularization.drawn(batch, 1, 1):
        noise = (embedding(batch.input_ids[None]) - plain)[0]
    assert torch.equal(embedding(batch.input_ids[None]), plain)
    hidden = plain.shape[-1]
    layout = batch.layout
    for path, length in zip(layout.paths, layout.sequence_lengths, strict=True):
        # As in transformers.integrations.neftune: alpha / sqrt(length · width), uniform.
        bound = 5.0 / math.sqrt(length * hidden)
        own = noise[layout.tokens(path[-1:])]
        assert own.abs().max().item() <= bound * 1.0001
        assert own.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    learner.close()
    assert not embedding._forward_hooks


def test_lora_plus_has_the_groups_of_peft(base_path: Path) -> None:
    learner = Learner(load_base(base_path, "fp32"), jobs.config(base_path, loraplus_ratio=16.0))
    learner.optim_step(1e-3, 1.0)
    rates = {id(p): g["lr"] for g in learner._optimizer.param_groups for p in g["params"]}
    for name, parameter in learner.parameters.items():
        assert rates[id(parameter)] == (16e-3 if name.endswith("lora_B") else 1e-3)
    learner.close()


def test_noise_is_there_while_a_job_learns(base_path: Path, tmp_path: Path) -> None:
    noisy = list(jobs.run(jobs.start(base_path, tmp_path, n_epochs=1, **NOISE)))
    plain = list(jobs.run(jobs.start(base_path, tmp_path / "plain", n_epochs=1)))
    assert steps_of(plain)[-1].values != steps_of(noisy)[-1].values
    # A new adapter changes nothing, so dropout does not show in the first loss; the noise on embeddings does.
    assert steps_of(plain)[0].values["train_loss"] != steps_of(noisy)[0].values["train_loss"]


def test_a_whole_model_learns_with_noise_on_its_embeddings(base_path: Path, tmp_path: Path) -> None:
    losses = []
    for alpha in (0.0, 5.0):
        job = jobs.start(
            base_path, tmp_path, trainable=Full(), n_epochs=1, neftune_noise_alpha=alpha
        )
        losses.append([m.values["train_loss"] for m in steps_of(list(jobs.run(job)))])
    assert len(losses[0]) == len(losses[1]) == 5
    assert all(plain != noisy for plain, noisy in zip(*losses, strict=True))
