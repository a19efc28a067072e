from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from modeling import attention
from modeling.artifacts import prefix as files
from modeling.artifacts.artifact import ArtifactError
from modeling.base_folder import SUPPORTED_MODEL_TYPES
from modeling.layout import Layout
from modeling.trainable.prefix import PrefixTrainable
from modeling.trainable.trainable import PackedRow
from tests.modeling.models import random_model, tiny_model, token_ids

V = 6
TEXT = token_ids(V, seed=9)
ROW = token_ids(9, vocab_size=64)


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return tiny_model(base_path, attention.NAME)


@pytest.fixture
def prefix(model: PreTrainedModel) -> PrefixTrainable:
    return PrefixTrainable(model, num_virtual_tokens=V, seed=7)


@pytest.fixture
def of_text(prefix: PrefixTrainable) -> PrefixTrainable:
    prefix.begin(lambda num_tokens: TEXT[:num_tokens])
    return prefix


def packed(rows: Sequence[Tensor], num_shared: int = 0) -> PackedRow:
    """Rows (T,) end to end; of what all begin with, `num_shared` tokens once."""
    layout = Layout.of_lengths([len(row) - num_shared for row in rows], num_shared)
    ids = torch.cat([rows[0][:num_shared], *(row[num_shared:] for row in rows)])
    return PackedRow(ids, layout.position_ids(), layout)


def three_rows(num_shared: int) -> list[Tensor]:
    beginning = token_ids(num_shared, seed=5)
    return [torch.cat([beginning, token_ids(n, seed=n)]) for n in (7, 12, 3)]


def logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    made: Tensor = model.lm_head(hidden)
    return made


@pytest.fixture
def peer(base_path: Path, tmp_path: Path) -> Any:
    """Gives PEFT's model of what is in training."""

    def of(prefix: PrefixTrainable) -> Any:
        files.write(tmp_path, prefix.artifact("tiny-random"))
        plain = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
        loaded: Any = peft.PeftModel.from_pretrained(plain, tmp_path)
        loaded.prompt_encoder.requires_grad_(True)
        return loaded

    return of


@pytest.mark.parametrize("num_shared", [0, 9])
@pytest.mark.parametrize("max_written_tokens", [0, 512])
def test_packed_rows_and_gradients_are_those_of_peft(
    monkeypatch: pytest.MonkeyPatch,
    model: PreTrainedModel,
    of_text: PrefixTrainable,
    peer: Any,
    num_shared: int,
    max_written_tokens: int,
) -> None:
    monkeypatch.setattr(attention, "MAX_WRITTEN_TOKENS", max_written_tokens)
    attention._groups.cache_clear()
    rows = three_rows(num_shared)
    found = logits(model, of_text.hidden_states(packed(rows, num_shared)))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(len(row), found.shape[1], generator=generator) for row in rows]
    own = torch.cat([weight[num_shared:] for weight in weights])
    shared = torch.stack([weight[:num_shared] for weight in weights]).sum(0)
    torch.autograd.backward((found * torch.cat([shared, own])).sum())

    theirs = peer(of_text)
    expected = [theirs(input_ids=row[None]).logits[0] for row in rows]
    own_expected = torch.cat([each[num_shared:] for each in expected])
    torch.testing.assert_close(found[num_shared:], own_expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:num_shared], expected[0][:num_shared], rtol=1e-5, atol=1e-5)
    torch.autograd.backward(
        sum((each * weight).sum() for each, weight in zip(expected, weights, strict=True))
    )
    (grad,) = (p.grad for p in theirs.parameters() if p.requires_grad)
    by_layer = files.keys_values(files.artifact(grad.view(V, 2, 2, 2, 16))).permute(1, 2, 3, 0, 4)
    for parameter, grad_of_layer in zip(of_text.parameters.values(), by_layer, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, grad_of_layer[..., 1:, :], rtol=1e-4, atol=1e-5)


def test_a_prefix_that_begins_from_a_text_is_that_text(
    model: PreTrainedModel, of_text: PrefixTrainable
) -> None:
    rows = three_rows(0)
    found = of_text.hidden_states(packed(rows))
    with torch.no_grad(), attention.segments(Layout.of_lengths([V + 7])):
        whole = torch.cat([TEXT, rows[0]])[None]
        in_context = model.base_model(input_ids=whole, use_cache=False).last_hidden_state[0, V:]
    torch.testing.assert_close(found[:7], in_context, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", sorted(SUPPORTED_MODEL_TYPES))
@torch.no_grad()
def test_a_text_s_keys_and_values_are_that_text_in_every_supported_architecture(
    model_type: str,
) -> None:
    model = random_model(model_type)
    whole = torch.cat([TEXT % 64, ROW])[None]
    in_context = model.base_model(input_ids=whole).last_hidden_state[0, V:]
    model.set_attn_implementation(attention.NAME)
    prefix = PrefixTrainable(model, num_virtual_tokens=V, seed=7)
    prefix.begin(lambda num_tokens: TEXT[:num_tokens] % 64)
    found = prefix.hidden_states(packed([ROW, ROW[:4]]))
    torch.testing.assert_close(found[:9], in_context, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[9:], in_context[:4], rtol=1e-4, atol=1e-5)


def test_a_text_that_is_too_short_is_all_of_the_beginning(prefix: PrefixTrainable) -> None:
    before = prefix._keys_values()
    prefix.begin(lambda _: TEXT[:2])
    after = prefix._keys_values()
    assert torch.equal(after[..., 2:, :], before[..., 2:, :])
    assert after[..., :2, :].std() > 10 * before.std()


def test_what_begins_at_random_is_a_function_of_the_seed(model: PreTrainedModel) -> None:
    one, same, longer, other = (
        PrefixTrainable(model, num_virtual_tokens=num, seed=seed)._keys_values()
        for num, seed in ((V, 7), (V, 7), (V + 2, 7), (V, 8))
    )
    assert torch.equal(one, same)
    assert torch.equal(one, longer[..., :V, :])
    assert not torch.isclose(one, other).any()
    assert one.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_base_is_its_plain_self_where_the_prefix_is_aside(
    model: PreTrainedModel, of_text: PrefixTrainable
) -> None:
    row = packed(three_rows(4), 4)
    with torch.no_grad():
        with_prefix = of_text.hidden_states(row)
        with of_text.set_aside():
            plain = of_text.hidden_states(row)
        with attention.segments(row.layout):
            expected = model.base_model(
                input_ids=row.input_ids[None], position_ids=row.position_ids[None], use_cache=False
            ).last_hidden_state[0]
        assert torch.equal(of_text.hidden_states(row), with_prefix)
    assert torch.equal(plain, expected)
    assert not torch.allclose(plain, with_prefix, atol=1e-2)


def test_what_was_trained_before_is_gone_on_with(
    model: PreTrainedModel, of_text: PrefixTrainable
) -> None:
    saved = of_text.artifact("tiny-random")
    other = PrefixTrainable(model, num_virtual_tokens=V, seed=1)
    other.take_over(saved)
    assert other.artifact("tiny-random").manifest() == saved.manifest()
    longer = PrefixTrainable(model, num_virtual_tokens=V + 1, seed=1)
    with pytest.raises(ArtifactError, match="has 6 virtual tokens, not 7"):
        longer.take_over(saved)


def test_an_artifact_is_a_copy(of_text: PrefixTrainable) -> None:
    saved = of_text.artifact("tiny-random")
    before = saved.manifest()
    with torch.no_grad():
        for parameter in of_text.parameters.values():
            parameter.zero_()
        of_text._first.zero_()
    assert saved.manifest() == before


def test_a_single_virtual_token_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="at least two"):
        PrefixTrainable(model, num_virtual_tokens=1, seed=0)
