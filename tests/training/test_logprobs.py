"""The one loss mechanism against autograd on full logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training import logprobs
from training.logprobs import score


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(23, 12, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(50, 12, generator=generator).to(dtype)
    labels = torch.randint(50, (23,), generator=generator)
    return hidden, head, labels


def plain(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return -functional.cross_entropy(hidden @ head.T, labels, reduction="none")


def gradient(hidden: Tensor, loss: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, hidden)
    return grad


@pytest.mark.parametrize("chunk_rows", [1, 5, 23, 1000])
def test_scores_equal_the_plain_way(chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, labels = inputs()
    labels[:7] = (hidden @ head.T).argmax(-1)[:7]
    monkeypatch.setattr(logprobs, "_CHUNK_BYTES", chunk_rows * 4 * len(head))
    scores = score(hidden, head, labels)
    torch.testing.assert_close(scores.logprobs, plain(hidden, head, labels), rtol=1e-5, atol=1e-6)
    is_top = (hidden @ head.T).argmax(-1) == labels
    assert is_top.any()
    assert not is_top.all()
    assert torch.equal(scores.is_top, is_top)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("chunk_rows", [5, 1000])
def test_any_loss_of_the_log_probabilities_has_autograd_s_gradient(
    seed: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, head, labels = inputs()
    monkeypatch.setattr(logprobs, "_CHUNK_BYTES", chunk_rows * 4 * len(head))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(23, generator=generator)
    assert (weights < 0).any()
    assert (weights > 0).any()

    def loss(values: Tensor) -> Tensor:
        # A weighted sum, and what couples the rows as DPO and PPO do.
        chosen, rejected = values[:11].sum(), values[11:22].sum()
        ratio = (values - values.detach() + weights / 4).exp().clamp(0.8, 1.2)
        return (
            (weights * values).sum()
            - functional.logsigmoid(chosen - rejected)
            - (ratio * weights).sum()
        )

    ours = gradient(hidden, loss(score(hidden, head, labels).logprobs))
    expected = gradient(hidden, loss(plain(hidden, head, labels)))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert not head.requires_grad


@pytest.mark.parametrize("chunk_rows", [5, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_that_trains_has_autograd_s_gradient(
    chunk_rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of both signs; in bf16 summed in fp32 from rounded products."""
    hidden, head, labels = inputs(dtype)
    monkeypatch.setattr(logprobs, "_CHUNK_BYTES", chunk_rows * 4 * len(head))
    weights = torch.randn(23, generator=torch.Generator().manual_seed(2))
    trained = head.detach().float().requires_grad_()
    loss = (weights * score(hidden, head, labels, trained).logprobs).sum()
    of_hidden, of_head = torch.autograd.grad(loss, (hidden, trained))
    exact = hidden.detach().float().requires_grad_()
    expected = torch.autograd.grad(
        (weights * plain(exact, trained, labels)).sum(), (exact, trained)
    )
    assert (of_hidden.dtype, of_head.dtype) == (dtype, torch.float32)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(of_head, expected[1], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(of_hidden.float(), expected[0], rtol=tolerance, atol=3 * tolerance)


def test_no_gradient_is_prepared_that_nobody_wants() -> None:
    hidden, head, labels = inputs()
    with torch.no_grad():
        assert not score(hidden, head, labels).logprobs.requires_grad


def test_scores_survive_huge_logits() -> None:
    hidden, head, labels = inputs()
    values = score(hidden * 1e4, head, labels).logprobs
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient(hidden, values.sum())).all()


def test_scores_in_bf16_are_close_to_fp32() -> None:
    hidden, head, labels = inputs()
    exact = score(hidden, head, labels).logprobs
    half = hidden.detach().bfloat16().requires_grad_()
    rounded = score(half, head.bfloat16(), labels).logprobs
    assert rounded.dtype == torch.float32
    assert rounded.sum().item() == pytest.approx(exact.sum().item(), rel=0.02)
    ours, expected = gradient(half, rounded.sum()), gradient(hidden, exact.sum())
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, rtol=0.05, atol=0.05)
