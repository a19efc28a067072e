from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from modeling.artifacts.artifact import ArtifactError
from modeling.artifacts.lora import TARGET_MODULES, peft_name
from modeling.trainable import lora
from modeling.trainable.lora import LoraLinear
from tests.modeling.models import backward, next_token_loss, randomise, tiny_model, token_ids


def naive(x: Tensor, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> Tensor:
    y: Tensor = base(x) + (x @ a.t() @ b.t()) * scale
    return y


def double_lora(*, bias: bool) -> LoraLinear:
    linear = nn.Linear(5, 4, bias=bias, dtype=torch.float64).requires_grad_(False)
    module = LoraLinear(linear, rank=2, scale=1.5).double()
    module.lora_A.data.normal_()
    module.lora_B.data.normal_()
    return module


@pytest.mark.parametrize("bias", [False, True])
def test_lora_linear_gradients_equal_finite_differences(bias: bool) -> None:
    torch.manual_seed(0)
    module = double_lora(bias=bias)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(module, {"lora_A": a, "lora_B": b}, (x,))
        return y

    assert torch.autograd.gradcheck(run, (x, module.lora_A, module.lora_B))


@pytest.mark.parametrize("bias", [False, True])
def test_lora_linear_equals_the_naive_formula(bias: bool) -> None:
    torch.manual_seed(0)
    module = double_lora(bias=bias)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, module.lora_A, module.lora_B)
    y, expected = module(x), naive(x, module.base, module.lora_A, module.lora_B, module.scale)
    torch.testing.assert_close(y, expected)
    grad_y = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad(y, inputs, grad_y),
        torch.autograd.grad(expected, inputs, grad_y),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_lora_linear_first_layer_computes_no_gradient_of_its_input() -> None:
    module = double_lora(bias=False)
    x = torch.randn(3, 5, dtype=torch.float64)
    backward(module(x).sum())
    assert x.grad is None
    assert module.lora_A.grad is not None
    assert module.base.weight.grad is None


def test_lora_linear_bf16_activations_keep_fp32_parameters() -> None:
    linear = nn.Linear(32, 16, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    module = LoraLinear(linear, rank=4, scale=2.0)
    module.lora_A.data.normal_()
    module.lora_B.data.normal_()
    x = torch.randn(8, 32, dtype=torch.bfloat16, requires_grad=True)
    y = module(x)
    assert y.dtype == torch.bfloat16
    backward(y.sum())
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    for parameter in (module.lora_A, module.lora_B):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
    exact = naive(x.float(), linear.float(), module.lora_A, module.lora_B, 2.0)
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.3)


def test_attach_changes_nothing_and_detach_leaves_the_base_as_it_was(base_path: Path) -> None:
    model = tiny_model(base_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    linears = dict(model.named_modules())
    input_ids = token_ids(1, 12)
    plain = model(input_ids).logits
    modules = lora.attach(model, 8, 16.0, TARGET_MODULES, seed=1)
    assert len(modules) == 2 * 7
    torch.testing.assert_close(model(input_ids).logits, plain, rtol=0, atol=0)
    randomise(modules)
    backward(next_token_loss(model, input_ids))
    assert not torch.equal(model(input_ids).logits, plain)
    lora.detach(model)
    assert dict(model.named_modules()) == linears
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_adapter_is_set_aside_without_looking_for_its_places(
    base_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is, at every report of a job. What another job puts there meanwhile is its own."""
    model = tiny_model(base_path)

    def attached(seed: int) -> lora.LoraTrainable:
        return lora.LoraTrainable(
            model, rank=4, alpha=8.0, target_modules=TARGET_MODULES, use_rslora=False, seed=seed
        )

    trained = attached(1)
    modules = dict(model.named_modules())
    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "get_submodule", None)
        with trained.set_aside():
            assert not any(isinstance(module, LoraLinear) for module in model.modules())
    with trained.set_aside():
        neighbour = attached(2)
        assert model.get_submodule(next(iter(neighbour.layers))) not in modules.values()
        neighbour.detach()
    assert dict(model.named_modules()) == modules
    trained.detach()
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def test_attach_twice_or_to_nothing_is_refused(base_path: Path) -> None:
    model = tiny_model(base_path)
    with pytest.raises(ValueError, match="no linear layer named c_attn"):
        lora.attach(model, 8, 16.0, ("c_attn",), seed=1)
    lora.attach(model, 8, 16.0, ("q_proj",), seed=1)
    with pytest.raises(ValueError, match="detach them first"):
        lora.attach(model, 8, 16.0, ("k_proj",), seed=1)


def test_initial_A_depends_on_seed_and_name_alone() -> None:
    first = lora.initial_A(1, "model.layers.0.q_proj", 4, 64)
    torch.manual_seed(123)
    assert torch.equal(first, lora.initial_A(1, "model.layers.0.q_proj", 4, 64))
    assert not torch.equal(first, lora.initial_A(2, "model.layers.0.q_proj", 4, 64))
    assert not torch.equal(first, lora.initial_A(1, "model.layers.1.q_proj", 4, 64))
    assert first.abs().max() <= 1 / 8
    assert first.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_loss_and_gradients_equal_those_of_peft(base_path: Path, use_rslora: bool) -> None:
    input_ids = token_ids(2, 24)
    model = tiny_model(base_path)
    modules = lora.attach(model, 8, 16.0, TARGET_MODULES, seed=1, use_rslora=use_rslora)
    randomise(modules)
    loss = next_token_loss(model, input_ids)
    backward(loss)

    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=list(TARGET_MODULES), use_rslora=use_rslora
    )
    reference = peft.get_peft_model(tiny_model(base_path), config)
    weights = {
        name.replace(".weight", ".default.weight"): tensor
        for name, tensor in lora.tensors(modules).items()
    }
    assert not reference.load_state_dict(weights, strict=False).unexpected_keys
    reference_loss = next_token_loss(reference, input_ids)
    backward(reference_loss)
    torch.testing.assert_close(loss, reference_loss)
    gradients = dict(reference.named_parameters())
    for name, module in modules.items():
        for side, parameter in (("A", module.lora_A), ("B", module.lora_B)):
            key = peft_name(name, side).replace(".weight", ".default.weight")  # type: ignore[arg-type]
            torch.testing.assert_close(parameter.grad, gradients[key].grad, rtol=1e-4, atol=1e-6)


def test_set_weights_goes_on_from_an_adapter_of_another_scale(base_path: Path) -> None:
    model = tiny_model(base_path)
    modules = lora.attach(model, 4, 8.0, ("q_proj", "down_proj"), seed=1)
    randomise(modules)
    logits = model(token_ids(1, 8)).logits
    adapter = {n: (m.lora_A.data, m.lora_B.data, m.scale) for n, m in modules.items()}
    lora.detach(model)
    modules = lora.attach(model, 4, 32.0, ("q_proj", "down_proj"), seed=2)
    lora.set_weights(modules, adapter)
    torch.testing.assert_close(model(token_ids(1, 8)).logits, logits)


def test_set_weights_of_another_shape_is_refused(base_path: Path) -> None:
    model = tiny_model(base_path)
    modules = lora.attach(model, 4, 8.0, ("q_proj",), seed=1)
    adapter = {n: (torch.zeros(8, 64), torch.zeros(64, 8), 1.0) for n in modules}
    with pytest.raises(ArtifactError, match="has rank 8"):
        lora.set_weights(modules, adapter)
    with pytest.raises(ArtifactError, match=r"adapts a\.o_proj, which is not asked for"):
        lora.set_weights(modules, {"a.o_proj": (torch.zeros(4, 64), torch.zeros(64, 4), 1.0)})


def test_a_larger_adapter_takes_a_smaller_one_over_and_computes_the_same(base_path: Path) -> None:
    """Of fewer layers, in ranks of their own, as adapters that others made may have."""
    model = tiny_model(base_path)
    modules = lora.attach(model, 4, 32.0, ("q_proj", "down_proj"), seed=1)
    randomise(modules)
    adapter = {n: (m.lora_A.clone(), m.lora_B.clone(), m.scale) for n, m in modules.items()}
    del adapter["model.layers.0.self_attn.q_proj"]
    a, b, scale = adapter["model.layers.1.mlp.down_proj"]
    adapter["model.layers.1.mlp.down_proj"] = (a[:2], b[:, :2], scale)
    for name, module in modules.items():
        module.lora_B.data[:, 2 if name == "model.layers.1.mlp.down_proj" else 4 :] = 0
    modules["model.layers.0.self_attn.q_proj"].lora_B.data.zero_()
    logits = model(token_ids(1, 8)).logits
    lora.detach(model)
    modules = lora.attach(model, 6, 16.0, ("q_proj", "v_proj", "down_proj"), seed=2)
    lora.set_weights(modules, adapter)
    torch.testing.assert_close(model(token_ids(1, 8)).logits, logits)
    # What is new can learn.
    assert all(bool(m.lora_A.abs().sum(1).all()) for m in modules.values())
