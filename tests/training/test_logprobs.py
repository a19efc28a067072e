from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from training import logprobs
from training.logprobs import linear_cross_entropy


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(23, 12, generator=generator, dtype=dtype).requires_grad_()
    head = torch.randn(50, 12, generator=generator, dtype=dtype)
    labels = torch.randint(50, (23,), generator=generator)
    weights = torch.rand(23, generator=generator)
    return hidden, head, labels, weights


@pytest.mark.parametrize("chunk_rows", [1, 5, 23, 1000])
def test_loss_accuracy_and_gradient_equal_the_plain_way(
    chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head, labels, weights = inputs(torch.float32)
    monkeypatch.setattr(logprobs, "_CHUNK_BYTES", chunk_rows * 4 * len(head))
    value, correct = linear_cross_entropy(hidden, head, labels, weights)
    torch.autograd.backward(3 * value)
    assert hidden.grad is not None
    gradient, hidden.grad = hidden.grad, None

    logits = hidden @ head.T
    expected = (weights * functional.cross_entropy(logits, labels, reduction="none")).sum()
    torch.autograd.backward(3 * expected)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert correct.item() == pytest.approx(weights[logits.argmax(-1) == labels].sum().item())
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-5, atol=1e-6)
    assert head.grad is None


def test_loss_without_gradient_computes_none() -> None:
    hidden, head, labels, weights = inputs(torch.float32)
    with torch.no_grad():
        value, _ = linear_cross_entropy(hidden, head, labels, weights)
    assert not value.requires_grad


def test_loss_survives_huge_logits() -> None:
    hidden, head, labels, weights = inputs(torch.float32)
    value, _ = linear_cross_entropy(hidden * 1e4, head, labels, weights)
    torch.autograd.backward(value)
    assert torch.isfinite(value)
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_loss_in_bf16_is_close_to_fp32() -> None:
    hidden, head, labels, weights = inputs(torch.float32)
    exact, _ = linear_cross_entropy(hidden, head, labels, weights)
    half = hidden.detach().bfloat16().requires_grad_()
    rounded, _ = linear_cross_entropy(half, head.bfloat16(), labels, weights)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    torch.autograd.backward(rounded)
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
