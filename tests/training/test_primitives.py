from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from dataset.examples import Example
from modeling.artifacts import lora
from tests.training import jobs
from training.batches import MicroBatch
from training.losses.cross_entropy import cross_entropy
from training.messages import TrainConfig
from training.primitives import Learner, UnsupportedBase, load_base


@pytest.fixture
def config(base_path: Path) -> TrainConfig:
    return jobs.config(base_path, rank=8)


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture
def learner(model: PreTrainedModel, config: TrainConfig) -> Iterator[Learner]:
    """With an adapter that does something: B is not zero."""
    learner = Learner(model, config)
    jobs.make_effective(learner)
    yield learner
    learner.close()


def gradients(
    learner: Learner, packed: Sequence[MicroBatch]
) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, accuracy and gradients of the mean over all the batches."""
    total = sum(batch.weights.sum().item() for batch in packed)
    num_scored = sum(len(batch.labels) for batch in packed)
    for parameter in learner.parameters.values():
        parameter.grad = None
    loss, num_right = 0.0, 0
    for batch in packed:
        value, scores = learner.forward_backward(batch, cross_entropy, total)
        loss += value.item()
        num_right += int(scores.is_top.sum())
    grads = {}
    for name, parameter in learner.parameters.items():
        assert parameter.grad is not None
        grads[name] = parameter.grad.clone()
    return loss / total, num_right / num_scored, grads


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-4, atol=1e-6, msg=name)


def test_loss_and_gradients_equal_transformers_with_peft(
    learner: Learner, config: TrainConfig, base_path: Path, tmp_path: Path
) -> None:
    examples = jobs.examples(base_path, tmp_path, 8)
    loss, accuracy, grads = gradients(learner, jobs.micro_batches(examples, 10_000))
    lora.write(tmp_path / "adapter", learner.artifact())
    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    peer: Any = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter", is_trainable=True)

    input_ids, labels = _padded(examples)
    output = peer(
        input_ids=input_ids, attention_mask=(labels != -101).long(), labels=labels.clamp(min=-100)
    )
    output.loss.backward()
    predicted = output.logits[:, :-1].argmax(-1)
    is_supervised = labels[:, 1:] >= 0
    peer_accuracy = (predicted == labels[:, 1:])[is_supervised].float().mean().item()
    peer_grads = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): parameter.grad
        for name, parameter in peer.named_parameters()
        if parameter.requires_grad
    }
    assert loss == pytest.approx(output.loss.item(), rel=1e-5)
    assert accuracy == pytest.approx(peer_accuracy, rel=1e-6)
    assert_same(grads, peer_grads)


def _padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """ids and labels (B, T); a label is -100 where nothing is learned and -101 in the padding."""
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    labels = torch.full_like(input_ids, -101)
    for row, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids).long()
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = ids.where(torch.from_numpy(example.weights) > 0, -100)
    return input_ids, labels


def test_packed_examples_learn_as_single_ones(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    examples = jobs.examples(base_path, tmp_path, 6)
    packed = jobs.micro_batches(examples, 10_000)
    single = [batch for example in examples for batch in jobs.micro_batches([example], 1)]
    assert len(packed) == 1
    assert len(single) == 6
    one, many = gradients(learner, packed), gradients(learner, single)
    assert one[:2] == pytest.approx(many[:2], rel=1e-5)
    assert_same(one[2], many[2])


def test_micro_batches_add_up_to_the_whole(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    examples = jobs.examples(base_path, tmp_path, 9)
    whole = jobs.micro_batches(examples, 10_000)
    parts = jobs.micro_batches(examples, 200)
    assert len(parts) > 2
    one, many = gradients(learner, whole), gradients(learner, parts)
    assert one[:2] == pytest.approx(many[:2], rel=1e-5)
    assert_same(one[2], many[2])


def test_message_of_weight_zero_contributes_nothing(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    two_turns = jobs.examples(base_path, tmp_path, 1)[0]
    turn_ends = [int(i) for i in two_turns.weights.nonzero()[0]]
    second_turn = next(i for i, j in zip(turn_ends[1:], turn_ends, strict=False) if i != j + 1)
    only_first = Example(two_turns.input_ids[:second_turn], two_turns.weights[:second_turn])
    muted = Example(two_turns.input_ids, two_turns.weights.copy())
    muted.weights[second_turn:] = 0
    one = gradients(learner, jobs.micro_batches([only_first], 10_000))
    other = gradients(learner, jobs.micro_batches([muted], 10_000))
    assert one[:2] == other[:2]
    assert all(torch.equal(one[2][name], other[2][name]) for name in one[2])


def test_scores_of_the_policy_and_of_the_base_are_transformers_own(
    learner: Learner, model: PreTrainedModel, base_path: Path, tmp_path: Path
) -> None:
    examples = jobs.examples(base_path, tmp_path, 4)
    (batch,) = jobs.micro_batches(examples, 10_000)
    policy, base = learner.logprobs(batch), learner.logprobs(batch, "base")
    _, trained = learner.forward_backward(batch, cross_entropy, 1.0)
    assert torch.equal(policy.logprobs, trained.logprobs)
    assert torch.equal(policy.is_top, trained.is_top)

    plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    lora.write(tmp_path / "adapter", learner.artifact())
    expected = _label_logprobs(plain, examples)
    torch.testing.assert_close(base.logprobs.sort().values, expected, rtol=1e-5, atol=1e-5)
    peer: Any = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    expected = _label_logprobs(peer, examples)
    torch.testing.assert_close(policy.logprobs.sort().values, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(policy.logprobs, base.logprobs, atol=1e-3)


def _label_logprobs(model: Any, examples: Sequence[Example]) -> Tensor:
    """In ascending order: a batch has its rows in an order of its own."""
    input_ids, labels = _padded(examples)
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=(labels != -101).long()).logits[:, :-1]
    values = logits.log_softmax(-1).gather(2, input_ids[:, 1:, None])[..., 0]
    scores: Tensor = values[labels[:, 1:] >= 0].sort().values
    return scores


def test_weights_of_either_sign_are_learnt_from(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    """Twice as much against one's own gradient is the gradient's opposite; accuracy is another matter."""
    (batch,) = jobs.micro_batches(jobs.examples(base_path, tmp_path, 4), 10_000)
    against = dataclasses.replace(batch, weights=-batch.weights)
    *_, grads = gradients(learner, [batch])
    for parameter in learner.parameters.values():
        parameter.grad = None
    total = batch.weights.sum().item()
    value, scores = learner.forward_backward(against, cross_entropy, total)
    assert value < 0
    assert torch.equal(scores.is_top, learner.logprobs(batch).is_top)
    for name, parameter in learner.parameters.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, -grads[name], rtol=1e-5, atol=1e-7)


def test_base_is_bit_identical_after_training(
    model: PreTrainedModel, config: TrainConfig, base_path: Path, tmp_path: Path
) -> None:
    learner = Learner(model, config)
    batch_list = jobs.micro_batches(jobs.examples(base_path, tmp_path, 4), 10_000)
    for _ in range(3):
        gradients(learner, batch_list)
        learner.optim_step(1e-2, 1.0)
    learner.close()
    stored = load_file(base_path / "model.safetensors")
    state = model.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in stored.items())


def test_clipping_scales_gradients_and_tells_their_norm(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    packed = jobs.micro_batches(jobs.examples(base_path, tmp_path, 4), 10_000)
    *_, grads = gradients(learner, packed)
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    assert learner.optim_step(0.0, norm / 2).item() == pytest.approx(norm, rel=1e-5)
    (state, *_) = learner._optimizer.state.values()
    name = next(iter(grads))
    # AdamW begins with a moment of (1 - 0.9) of the gradient.
    torch.testing.assert_close(state["exp_avg"], 0.1 * grads[name] / 2, rtol=1e-4, atol=1e-8)
    assert all(parameter.grad is None for parameter in learner.parameters.values())


def test_base_with_a_scaled_output_layer_is_refused(base_path: Path, tmp_path: Path) -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = load_base(base_path, "fp32")
    model.lm_head.__class__ = Scaled
    from training import primitives

    with pytest.raises(UnsupportedBase):
        primitives._check_head(model)
