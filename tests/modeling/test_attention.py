from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling import attention, written_attention
from modeling.artifacts.lora import TARGET_MODULES
from modeling.base_folder import SUPPORTED_MODEL_TYPES
from modeling.layout import Layout
from modeling.trainable import lora

from .models import random_model, randomise, tiny_model, token_ids

# Short, long, equal neighbours, a single token, longer than a tile.
LENGTHS = (5, 20, 20, 1, 150, 7)


Inputs = tuple[Tensor, Tensor, Tensor]


def offsets(lengths: tuple[int, ...], first: int = 0) -> tuple[int, ...]:
    return tuple(itertools.accumulate(lengths, initial=first))


def positions(lengths: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def qkv(num_tokens: int, heads: int = 6, kv_heads: int = 2, head_dim: int = 16) -> Inputs:
    """Float64, and as a model makes them: tokens outside, heads inside."""
    generator = torch.Generator().manual_seed(0)

    def random(num: int) -> Tensor:
        shape = (1, num_tokens, num, head_dim)
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.transpose(1, 2).detach().requires_grad_()

    return random(heads), random(kv_heads), random(kv_heads)


def by_segment(inputs: Inputs, lengths: tuple[int, ...], window: int | None = None) -> Tensor:
    """The reference: each segment by itself through torch."""
    outputs = []
    for start, end in itertools.pairwise(offsets(lengths)):
        q, k, v = (x[:, :, start:end] for x in inputs)
        seen = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).tril()
        if window:
            seen = seen.triu(1 - window)
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True))
    return torch.cat(outputs, 2).transpose(1, 2)


def packed(inputs: Inputs, lengths: tuple[int, ...], **options: Any) -> Tensor:
    q, k, v = inputs
    with attention.segments(Layout.of_lengths(lengths)):
        return attention.packed_attention(torch.nn.Module(), q, k, v, None, **options)[0]


def assert_same(got: Tensor, expected: Tensor, inputs: Inputs) -> None:
    """Values and gradients."""
    torch.testing.assert_close(got, expected)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype)
    ours, theirs = (torch.autograd.grad(out, inputs, grad) for out in (got, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("max_padding_tokens", [0, 10, 64])
@pytest.mark.parametrize("tile_tokens", [4, 128])
@pytest.mark.parametrize("max_written_tokens", [0, 20, 512])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_packed_attention_equals_each_segment_by_itself(
    monkeypatch: pytest.MonkeyPatch,
    max_padding_tokens: int,
    tile_tokens: int,
    max_written_tokens: int,
    kv_heads: int,
) -> None:
    attention._groups.cache_clear()
    monkeypatch.setattr(attention, "MAX_PADDING_TOKENS", max_padding_tokens)
    monkeypatch.setattr(written_attention, "TILE_TOKENS", tile_tokens)
    monkeypatch.setattr(attention, "MAX_WRITTEN_TOKENS", max_written_tokens)
    inputs = qkv(sum(LENGTHS), kv_heads=kv_heads)
    assert_same(packed(inputs, LENGTHS), by_segment(inputs, LENGTHS), inputs)


def test_packed_attention_gradients_equal_finite_differences() -> None:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed((q, k, v), (3, 3, 2))

    assert torch.autograd.gradcheck(run, qkv(8, heads=4, head_dim=3))


def test_packed_attention_bf16_is_as_close_as_bf16_can_be() -> None:
    exact = qkv(sum(LENGTHS))
    q, k, v = (x.detach().bfloat16() for x in exact)
    got = packed((q, k, v), LENGTHS)
    assert got.dtype == torch.bfloat16
    expected = by_segment(exact, LENGTHS)
    torch.testing.assert_close(got.double(), expected, rtol=0.02, atol=0.03)


@pytest.mark.parametrize("window", [1, 6, 20, 1000])
def test_packed_attention_sliding_window(window: int) -> None:
    inputs = qkv(sum(LENGTHS))
    got = packed(inputs, LENGTHS, sliding_window=window)
    assert_same(got, by_segment(inputs, LENGTHS, window), inputs)


def test_packed_attention_outside_of_segments_is_refused() -> None:
    q, k, v = qkv(4)
    with pytest.raises(RuntimeError, match=r"attention\.segments"):
        attention.packed_attention(torch.nn.Module(), q, k, v, None)


def test_packed_attention_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="packed row of 5 tokens"):
        packed(qkv(4), (5,))


@pytest.mark.parametrize(
    "options", [{"dropout": 0.1}, {"softcap": 50.0}, {"s_aux": torch.zeros(6)}]
)
def test_packed_attention_what_it_does_not_know_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="packed attention"):
        packed(qkv(4), (4,), **options)


@pytest.mark.parametrize("max_padding_tokens", [0, 64])
@pytest.mark.parametrize("limit", [512, 10, 0], ids=["written", "both", "sdpa"])
@pytest.mark.parametrize("window", [None, 5])
def test_shared_beginning_counts_as_the_beginning_of_every_segment(
    monkeypatch: pytest.MonkeyPatch, limit: int, window: int | None, max_padding_tokens: int
) -> None:
    attention._groups.cache_clear()
    monkeypatch.setattr(attention, "MAX_PADDING_TOKENS", max_padding_tokens)
    monkeypatch.setattr(attention, "MAX_WRITTEN_TOKENS", limit)
    assert_shared_beginning_counts(window)


@pytest.mark.parametrize("window", [None, 5])
def test_kernel_for_packed_rows_gets_the_shared_beginning_with_every_segment(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    """What surrounds the GPU's kernel, with the reference in its place."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, at: tuple[int, ...], _scale: float, window: int | None
    ) -> Tensor:
        return by_segment((q, k, v), tuple(b - a for a, b in itertools.pairwise(at)), window)

    monkeypatch.setattr(attention, "_has_varlen_kernel", lambda _query: True)
    monkeypatch.setattr(attention, "_varlen", kernel)
    assert_shared_beginning_counts(window)


# Two sequences that begin alike, one of which two more go on from somewhere else; one by itself; three more.
TREE = Layout(
    tuple(itertools.accumulate((6, 3, 4, 1, 9, 9, 5, 7, 2, 30, 3), initial=0)),
    (-1, 0, 0, 2, 2, 0, -1, -1, 7, 7, 7),
)


def assert_shared_beginning_counts(window: int | None) -> None:
    for layout in (Layout.of_lengths((3, 1, 9, 9), 6), TREE, TREE.behind(4)):
        inputs = qkv(layout.num_tokens)
        with attention.segments(layout):
            got, _ = attention.packed_attention(
                torch.nn.Module(), *inputs, None, sliding_window=window
            )
        expected = torch.zeros_like(got)
        for path, length in zip(layout.paths, layout.sequence_lengths, strict=True):
            tokens = layout.tokens(path)
            q, k, v = (x[:, :, tokens] for x in inputs)
            expected = expected.index_copy(1, tokens, by_segment((q, k, v), (length,), window))
        assert_same(got, expected, inputs)


def test_model_packed_row_equals_unpacked_sequences(base_path: Path) -> None:
    """Logits and adapter gradients of one packed row are those of the sequences one by one."""
    input_ids = token_ids(1, sum(LENGTHS))
    grad = torch.randn(sum(LENGTHS), 259, generator=torch.Generator().manual_seed(2))
    logits, gradients = {}, {}
    for name in ("sdpa", attention.NAME):
        model = tiny_model(base_path, name)
        modules = lora.attach(model, 4, 8.0, TARGET_MODULES, seed=1)
        randomise(modules)
        if name == attention.NAME:
            with attention.segments(Layout.of_lengths(LENGTHS)):
                out = model(input_ids=input_ids, position_ids=positions(LENGTHS), use_cache=False)
            logits[name] = out.logits[0]
        else:
            parts = [
                model(row, use_cache=False).logits[0]
                for row in torch.split(input_ids, list(LENGTHS), 1)
            ]
            logits[name] = torch.cat(parts)
        logits[name].backward(grad)
        gradients[name] = [
            p.grad for m in modules.values() for p in m.parameters() if p.requires_grad
        ]
    torch.testing.assert_close(logits[attention.NAME], logits["sdpa"], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients[attention.NAME], gradients["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", sorted(SUPPORTED_MODEL_TYPES))
@torch.no_grad()
def test_every_supported_architecture_runs_packed_rows(model_type: str) -> None:
    lengths = (9, 4, 4)
    model = random_model(model_type)
    input_ids = token_ids(1, sum(lengths), vocab_size=64)
    expected = torch.cat([model(row).logits for row in torch.split(input_ids, list(lengths), 1)], 1)
    model.set_attn_implementation(attention.NAME)
    with attention.segments(Layout.of_lengths(lengths)):
        got = model(input_ids=input_ids, position_ids=positions(lengths), use_cache=False).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    modules = lora.attach(model, 4, 8.0, TARGET_MODULES, seed=1)
    assert len(modules) == 14


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.06)], ids=["fp32", "bf16"]
)
def test_packed_attention_on_a_gpu(dtype: torch.dtype, tolerance: float) -> None:
    exact = qkv(sum(LENGTHS), heads=8, head_dim=64)
    q, k, v = (x.detach().to("cuda", dtype).requires_grad_() for x in exact)
    got, expected = packed((q, k, v), LENGTHS), by_segment(exact, LENGTHS)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=tolerance, atol=tolerance)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    ours = torch.autograd.grad(got, (q, k, v), grad.to("cuda", dtype))
    theirs = torch.autograd.grad(expected, exact, grad)
    for got_grad, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got_grad.cpu().double(), want, rtol=tolerance, atol=tolerance)
