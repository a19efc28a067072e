"""Raw text on the tiny base, measured against transformers with a document alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dataset.examples import Example
from dataset.tokenized import Dataset
from tests.training import jobs
from text.tokenizer import Tokenizer
from training.messages import Report, StepMetrics, TrainConfig, Unsupervised
from training.primitives import Learner, load_base
from training.programs import program_of


@pytest.fixture(scope="module")
def model(base_path: Path) -> PreTrainedModel:
    return load_base(base_path, "fp32")


@pytest.fixture
def learner(model: PreTrainedModel, base_path: Path) -> Iterator[Learner]:
    learner = Learner(model, jobs.config(base_path))
    yield learner
    learner.close()


def documents(
    base_path: Path, folder: Path, texts: list[str], *, max_seq_len: int, overlap: int
) -> list[Example]:
    """The windows of all the texts."""
    folder.mkdir()
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    examples = jobs.tokenized(
        file, base_path, max_seq_len=max_seq_len, method="unsupervised", overlap=overlap
    )
    return list(Dataset.open(examples).examples)


def log_likelihoods(learner: Learner, examples: list[Example]) -> list[float]:
    """Of each example, weighted, computed in one packed batch of them all."""
    (batch,) = jobs.micro_batches(examples, 100_000)
    weighted = learner.logprobs(batch).logprobs * batch.weights
    # The longest come first in a batch.
    order = sorted(range(len(examples)), key=lambda i: (-examples[i].num_tokens, i))
    parts = torch.split(weighted, [examples[i].num_supervised_tokens for i in order])
    found = {i: part.double().sum().item() for i, part in zip(order, parts, strict=True)}
    return [found[i] for i in range(len(examples))]


def of_ids(plain: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """transformers' own log-probabilities of all but the first."""
    with torch.inference_mode():
        logits = plain(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    found: torch.Tensor = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return found


@pytest.fixture(scope="module")
def plain(base_path: Path) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    return loaded


TEXTS = ["One document.", "Another <|im_end|> one, longer than that.", "x", "The fourth " * 4]


def test_packed_documents_are_as_likely_as_each_alone(
    learner: Learner, plain: PreTrainedModel, base_path: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    examples = documents(base_path, tmp_path / "a", TEXTS, max_seq_len=128, overlap=0)
    found = log_likelihoods(learner, examples)
    alone = [of_ids(plain, tokenizer.encode_document(text)).sum().item() for text in TEXTS]
    assert found == pytest.approx(alone, rel=1e-5)
    # Whoever the neighbours are, and wherever they stand.
    others = documents(
        base_path, tmp_path / "b", [TEXTS[3], "y" * 70, TEXTS[0]], max_seq_len=128, overlap=0
    )
    among_others = log_likelihoods(learner, others)
    assert [among_others[2], among_others[0]] == pytest.approx([found[0], found[3]], rel=1e-5)


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_windows_add_up_to_their_document(
    learner: Learner,
    plain: PreTrainedModel,
    base_path: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    overlap: int,
) -> None:
    text, length = "A long document, in windows. " * 4, 20
    examples = documents(base_path, tmp_path / "a", [text], max_seq_len=length, overlap=overlap)
    assert len(examples) > 5
    ids = tokenizer.encode_document(text)
    alone = of_ids(plain, ids[:length]).sum().item()
    position = length
    while position < len(ids):
        # As in transformers' guide to perplexity: a window over the tokens, and only its new ones count.
        start = position - 1 - overlap
        alone += of_ids(plain, ids[start : start + length])[overlap:].sum().item()
        position = start + length
    assert sum(log_likelihoods(learner, examples)) == pytest.approx(alone, rel=1e-5)


def test_a_document_that_fits_is_one_window_whatever_the_overlap(
    learner: Learner, base_path: Path, tmp_path: Path
) -> None:
    by_overlap = [
        log_likelihoods(
            learner,
            documents(base_path, tmp_path / str(n), TEXTS, max_seq_len=128, overlap=n),
        )
        for n in (0, 64)
    ]
    assert by_overlap[0] == by_overlap[1]


def test_perplexity_is_e_to_the_loss(base_path: Path, tmp_path: Path) -> None:
    job = jobs.start(base_path, tmp_path, method=Unsupervised(overlap=4), max_seq_len=48)
    reports: list[Report] = list(jobs.run(job))
    steps = [report for report in reports if isinstance(report, StepMetrics)]
    assert steps[-1].values["train_loss"] < steps[0].values["train_loss"]
    for step in steps:
        for role in ("train", "valid", "full_valid"):
            if f"{role}_loss" in step.values:
                expected = math.exp(step.values[f"{role}_loss"])
                assert step.values[f"{role}_perplexity"] == expected
    assert "full_valid_perplexity" in steps[-1].values


def test_bits_per_byte_are_those_of_the_documents_alone(
    learner: Learner, plain: PreTrainedModel, base_path: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = [*TEXTS, "Grüße aus Köln"]
    nll = -sum(of_ids(plain, tokenizer.encode_document(text)).sum().item() for text in texts)
    # What nothing predicts, the first byte of each, is no part of either.
    num_bytes = sum(len(text.encode()) - 1 for text in texts)
    config: TrainConfig = jobs.config(base_path, method=Unsupervised())
    program = program_of(config, learner)
    for number, order in enumerate((texts, texts[::-1])):
        examples = documents(base_path, tmp_path / str(number), order, max_seq_len=128, overlap=0)
        found = program.evaluate(1, examples, lambda: None)["bits_per_byte"]
        assert found == pytest.approx(nll / math.log(2) / num_bytes, rel=1e-5)


def test_a_loss_beyond_the_numbers_has_an_infinite_perplexity(
    learner: Learner, base_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "training.programs.supervised.SupervisedProgram.evaluate", lambda *_: {"loss": 1e4}
    )
    config: TrainConfig = jobs.config(base_path, method=Unsupervised())
    values = program_of(config, learner).evaluate(1, [], lambda: None)
    assert values == {"loss": 1e4, "perplexity": math.inf}
