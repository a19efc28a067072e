"""What a tuned model says, against a base whose weights were changed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modeling.artifacts import classifier, full, model_tensors, output_layers, prefix
from modeling.artifacts.artifact import Artifact
from modeling.insight import depth, forgetting, likelihood, samples, shifts
from modeling.insight.changes import NotMeasurable
from modeling.insight.forgetting import Reference
from modeling.insight.tuned import TunedModel
from tests.modeling.models import tiny_model
from text.tokenizer import Tokenizer

from .parts import adapter, logprobs, merged, nll, rows, silent


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "NUM_SAMPLES", 6)
    monkeypatch.setattr(samples, "NUM_TOKENS", 10)
    # Three positions of tiny-random at a time.
    monkeypatch.setattr(likelihood, "CHUNK_BYTES", 3 * 4 * 259)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def artifact(base_path: Path) -> Artifact:
    return adapter(base_path)


@pytest.fixture
def model(base_path: Path, artifact: Artifact) -> TunedModel:
    return TunedModel(base_path, artifact, "fp32")


def test_divergence_on_the_base_s_samples_is_that_of_the_dense_models(
    model: TunedModel, artifact: Artifact, base_path: Path, kept: Path
) -> None:
    reference = Reference.of_base(model, base_path, kept, silent)
    base, tuned = tiny_model(base_path), merged(base_path, artifact)
    expected = []
    for sample in reference.samples:
        ours, theirs = (logprobs(m, sample.ids)[len(sample.prompt) - 1 :] for m in (base, tuned))
        expected.append((ours.exp() * (ours - theirs)).sum(-1))
    found = forgetting.of_samples(reference)
    every = torch.cat(expected)
    assert found["num_tokens"] == len(every) == sum(len(s.drawn) for s in reference.samples)
    assert found["mean"] == pytest.approx(float(every.mean()), abs=1e-5)
    assert found["p95"] == pytest.approx(float(every.quantile(0.95)), abs=1e-5)
    assert [each["sum"] for each in found["by_sample"]] == pytest.approx(
        [float(each.sum()) for each in expected], abs=1e-4
    )
    assert set(found["by_half"]) == {"chat", "text"}
    # Once more, from what was kept.
    again = Reference.of_base(model, base_path, kept, silent)
    assert again.samples == reference.samples
    assert forgetting.of_samples(again)["mean"] == pytest.approx(found["mean"], abs=1e-6)
    assert found["mean"] > 0.01


def test_samples_are_a_function_of_their_number(model: TunedModel) -> None:
    prompts = [[257, 65, 66], [256], [257], [65] * 9]

    def drawn(of: list[list[int]]) -> list[list[int]]:
        with model.as_base():
            return samples.draw(model.model, of, frozenset(), 12, 7)

    together = drawn(prompts)
    assert together == drawn(prompts)
    assert drawn(prompts[:2]) == together[:2]
    assert {len(each) for each in together} == {12}
    assert together[1] != together[2]


def test_a_sample_ends_where_the_base_ends_it(model: TunedModel) -> None:
    with model.as_base():
        (free,) = samples.draw(model.model, [[256]], frozenset(), 12, 7)
        (ended,) = samples.draw(model.model, [[256]], frozenset({free[4]}), 12, 7)
    assert ended == free[: free.index(free[4]) + 1]


def test_neutral_texts_are_as_likely_as_to_the_dense_models(
    model: TunedModel, artifact: Artifact, base_path: Path, tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    few, about = forgetting.neutral_rows(tokenizer)
    assert len(few) == 52
    assert {each["language"] for each in about} == {"de", "en", "es", "fr", "it", "pt", "ru", "zh"}
    monkeypatch.setattr(likelihood, "CHUNK_BYTES", 64 << 20)
    chosen = [0, 7, 45]
    monkeypatch.setattr(
        forgetting,
        "neutral_rows",
        lambda _: ([few[i] for i in chosen], [about[i] for i in chosen]),
    )
    found = forgetting.of_neutral(model, tokenizer)
    for number, text in zip(chosen, found["texts"], strict=True):
        for dense_model, name in (
            (tiny_model(base_path), "base_nll"),
            (merged(base_path, artifact), "tuned_nll"),
        ):
            expected = nll(dense_model, few[number]) / (len(few[number].ids) - 1)
            assert text[name] == pytest.approx(expected, abs=1e-5)
    assert found["num_tokens"] + found["drift"]["num_tokens"] == sum(
        len(few[i].ids) - 1 for i in chosen
    )


def test_parts_of_the_adapter_count_alone(
    model: TunedModel, artifact: Artifact, base_path: Path
) -> None:
    given = rows()
    found = depth.ablation(model, given, silent)
    whole, off, first_off, first_on = found["variants"][:4]
    assert found["rows"] == ["row 0", "row 1", "row 2"]
    assert [each["what"] for each in (whole, off, first_off, first_on)] == [
        "whole", "off", "off in layers", "on in layers",
    ]  # fmt: skip
    expected = {
        "whole": merged(base_path, artifact),
        "off": tiny_model(base_path),
        "off in layers": merged(base_path, artifact, lambda layer, _: float(layer != 0)),
        "on in layers": merged(base_path, artifact, lambda layer, _: float(layer == 0)),
    }
    for each in (whole, off, first_off, first_on):
        losses = [loss for loss, _ in each["by_row"]]
        assert losses == pytest.approx(
            [nll(expected[each["what"]], row) for row in given], abs=1e-4
        )
    (down,) = (each for each in found["variants"] if each.get("projection") == "down_proj")
    without = merged(base_path, artifact, lambda _, name: float(name != "down_proj"))
    weight = sum(sum(row.weights[1:]) for row in given)
    assert down["nll"] == pytest.approx(sum(nll(without, row) for row in given) / weight, abs=1e-5)
    # And nothing of it stays.
    assert depth.ablation(model, given, silent)["variants"][0] == whole


def test_turned_down_it_is_a_smaller_change(
    model: TunedModel, artifact: Artifact, base_path: Path, kept: Path
) -> None:
    reference = Reference.of_base(model, base_path, kept, silent).part(4)
    assert [each.is_chat for each in reference.samples] == [True, True, False, False]
    given = rows()
    found = depth.dial(model, given, reference, (0.0, 0.5, 1.5), silent)["strengths"]
    for each in found:
        dense_model = merged(base_path, artifact, lambda _, __, each=each: each["strength"])  # type: ignore[misc]
        assert [loss for loss, _ in each["by_row"]] == pytest.approx(
            [nll(dense_model, row) for row in given], abs=1e-4
        )
    assert found[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < found[1]["kl"] < found[2]["kl"]


def test_tokens_and_layers_shift_as_in_the_dense_models(
    model: TunedModel, artifact: Artifact, base_path: Path
) -> None:
    given = rows()
    base, tuned = tiny_model(base_path), merged(base_path, artifact)
    told = shifts.tokens(model, given)["rows"]
    for row, each in zip(given, told, strict=True):
        for dense_model, name in ((base, "base"), (tuned, "tuned")):
            found = logprobs(dense_model, list(row.ids))
            expected = [float(found[place - 1, row.ids[place]]) for place in row.scored]
            assert each[name] == pytest.approx(expected, abs=2e-5)
    shifted = shifts.layers(model, given)
    states: dict[str, list[torch.Tensor]] = {"base": [], "tuned": []}
    for dense_model, name in ((base, "base"), (tuned, "tuned")):
        for row in given:
            with torch.inference_mode():
                out = dense_model(input_ids=torch.tensor([row.ids]), output_hidden_states=True)
            states[name].append(out.hidden_states[1][0, row.scored[0] - 1])
    moved = [
        float((b - a).norm() / a.norm())
        for a, b in zip(states["base"], states["tuned"], strict=True)
    ]
    assert shifted["behind_layers"][0] == pytest.approx(sorted(moved)[1], abs=1e-5)
    (first,) = (
        each for each in shifted["weights"] if each["name"] == "model.layers.0.self_attn.q_proj"
    )
    assert first["median_ratio"] > 0


def of_kinds(base_path: Path) -> Iterator[Artifact]:
    config = tiny_model(base_path).config
    generator = torch.Generator().manual_seed(1)
    shapes = model_tensors.shapes_of(config)
    tensors = {n: torch.randn(s, generator=generator) / s[-1] ** 0.5 for n, s in shapes.items()}
    yield full.artifact(config, tensors)
    of_layers = output_layers.trained_shapes(config, num_blocks=1, train_head=True)
    yield output_layers.artifact({n: tensors[n] for n in of_layers}, num_blocks=1, train_head=True)
    yield prefix.artifact(torch.randn(5, 2, 2, 2, 16, generator=generator))


def test_every_kind_that_writes_is_compared_with_its_base(base_path: Path, kept: Path) -> None:
    for artifact in of_kinds(base_path):
        model = TunedModel(base_path, artifact, "fp32")
        reference = Reference.of_base(model, base_path, kept, silent)
        found = forgetting.of_samples(reference)
        assert found["mean"] > 0.01, artifact.kind
        with model.as_base():
            assert forgetting.of_samples(reference)["mean"] == pytest.approx(0, abs=1e-6)
        if artifact.kind != prefix.KIND:
            dense_model = tiny_model(base_path)
            changed = {name: tensor.float() for name, tensor in artifact.tensors.items()}
            dense_model.load_state_dict(changed, strict=False)
            sample = reference.samples[0]
            ours = logprobs(tiny_model(base_path), sample.ids)[len(sample.prompt) - 1 :]
            theirs = logprobs(dense_model, sample.ids)[len(sample.prompt) - 1 :]
            expected = float((ours.exp() * (ours - theirs)).sum())
            assert found["by_sample"][0]["sum"] == pytest.approx(expected, abs=1e-4)
        with pytest.raises(NotMeasurable, match="only a LoRA model"):
            depth.ablation(model, rows(), silent)


def test_what_writes_nothing_says_nothing(base_path: Path) -> None:
    plain = adapter(base_path)
    head = Artifact(classifier.KIND, {**plain.spec, "labels": ["a", "b"]}, plain.tensors)
    with pytest.raises(NotMeasurable, match="writes no text"):
        TunedModel(base_path, head)
