"""Rows of raw text: what becomes of documents, and which rows are refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.tokenized import Dataset, Statistics
from dataset.validation import InvalidFile, validate
from dataset.windows import windows
from foundation.documents import reader_of
from tests.factories import Json, colour_rows, jsonl
from text.chat_template import ChatTemplate, TokenizedExample

END = 258


@pytest.fixture(scope="module")
def template(base_path: Path) -> ChatTemplate:
    return ChatTemplate.load(base_path)


def load(
    folder: Path,
    template: ChatTemplate,
    *rows: dict[str, Any],
    max_seq_len: int = 2048,
    overlap: int = 0,
    method: str = "unsupervised",
) -> Dataset:
    validate(
        [jsonl(rows)],
        folder / "examples",
        template,
        max_seq_len=max_seq_len,
        role="training",
        file_id="file-X",
        method=method,
        overlap=overlap,
    )
    return Dataset.open(folder / "examples")


def refusal(folder: Path, template: ChatTemplate, *rows: dict[str, Any], **options: Any) -> str:
    with pytest.raises(InvalidFile) as caught:
        load(folder, template, *rows, **options)
    return caught.value.message


def test_a_document_is_its_text_and_its_end(tmp_path: Path, template: ChatTemplate) -> None:
    text = "no <|im_end|> in it"
    loaded = load(tmp_path, template, *[{"text": text}] * 10)
    first = loaded.examples[0]
    assert first.input_ids.tolist() == [*text.encode(), END]
    assert first.weights.tolist() == [0, *[1] * len(text)]
    statistics = loaded.statistics
    assert (statistics.num_truncated, statistics.num_silent, statistics.num_left_out) == (0, 0, 0)


def test_long_documents_become_windows_and_empty_ones_nothing(
    tmp_path: Path, template: ChatTemplate
) -> None:
    loaded = load(tmp_path, template, {"text": "a" * 999}, {"text": ""}, max_seq_len=101)
    assert [e.num_tokens for e in loaded.examples] == [101] * 9 + [100]
    statistics = loaded.statistics
    assert (statistics.num_rows, statistics.num_left_out) == (2, 1)
    assert statistics.num_supervised_tokens == 999


@given(st.integers(0, 60), st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_learnt_once_in_its_place(
    num_tokens: int, max_seq_len: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, max_seq_len - 2))
    document = TokenizedExample(
        list(range(num_tokens)), [0.0, *[1.0] * (num_tokens - 1)][:num_tokens]
    )
    learnt: list[int] = []
    for number, window in enumerate(windows(document, max_seq_len, overlap)):
        ids = window.input_ids
        assert len(ids) <= max_seq_len
        assert np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids)) if len(ids) else ids)
        scored = ids[window.weights != 0].tolist()
        if number:
            # Each prediction has the tokens of the overlap before it, and one more.
            assert scored[0] - ids[0] == overlap + 1
        learnt += scored
    assert learnt == list(range(1, num_tokens))


def test_windows_that_would_be_all_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        list(windows(TokenizedExample([1], [0.0]), 8, 7))


def test_rows_of_other_forms_are_refused_with_line_and_mend(
    tmp_path: Path, template: ChatTemplate
) -> None:
    message = refusal(tmp_path, template, *colour_rows(10))
    assert 'rows of the form {"text": ...}; chat messages and prompt/completion pairs' in message
    texts = [{"text": "a"}] * 10
    wrong: list[Json] = [
        {"text": 1},
        {"prompt": "a", "completion": "b"},
        {"text": "a", "title": "b"},
    ]
    for number, (row, words) in enumerate(
        zip(
            wrong,
            ("text Input should be a valid string", "is missing key 'text'", 'an extra "title"'),
            strict=True,
        )
    ):
        (tmp_path / str(number)).mkdir()
        message = refusal(tmp_path / str(number), template, *texts, row)
        assert "Example 11 " in message
        assert words in message
    (tmp_path / "supervised").mkdir()
    message = refusal(tmp_path / "supervised", template, *texts, method="supervised")
    assert "which the method 'unsupervised' learns from" in message


def test_few_short_documents_are_too_few_and_one_long_one_is_not(
    tmp_path: Path, template: ChatTemplate
) -> None:
    assert "has 9 example(s)" in refusal(tmp_path, template, *[{"text": "ab"}] * 9)
    (tmp_path / "long").mkdir()
    loaded = load(tmp_path / "long", template, {"text": "a" * 1000}, max_seq_len=101)
    assert len(loaded.examples) == 10


def test_the_bytes_that_are_learnt_are_counted_whatever_the_windows(
    tmp_path: Path, template: ChatTemplate
) -> None:
    texts = ["Grüße aus Köln. " * 9, "x", "no <|im_end|> in it"]
    # Nothing predicts a document's first byte on this base, which has no token to begin with.
    expected = sum(len(text.encode()) - 1 for text in texts)
    for overlap in (0, 7):
        (tmp_path / str(overlap)).mkdir()
        loaded = load(
            tmp_path / str(overlap),
            template,
            *({"text": text} for text in texts * 4),
            max_seq_len=20,
            overlap=overlap,
        )
        assert sum(example.num_bytes for example in loaded.examples) == 4 * expected


@given(st.lists(st.integers(0, 300)), st.integers(0, 1000))
def test_bytes_are_shared_among_tokens_and_add_up(
    template: ChatTemplate, ids: list[int], num_bytes: int
) -> None:
    shares = template.tokenizer._token_bytes.shares(ids, num_bytes)
    assert len(shares) == len(ids)
    assert all(share >= 0 for share in shares)
    assert sum(shares) == (num_bytes if ids else 0)


def test_a_text_file_is_learnt_from_and_named_by_its_documents(
    tmp_path: Path, template: ChatTemplate
) -> None:
    def check(content: bytes, method: str = "unsupervised") -> Statistics:
        return validate(
            [content],
            Path(tempfile.mkdtemp(dir=tmp_path)) / "examples",
            template,
            max_seq_len=64,
            role="validation",
            file_id="file-X",
            method=method,
            overlap=0 if method == "unsupervised" else None,
            reader=reader_of("texts.txt"),
        )

    assert check(b"one\n<|endoftext|>\ntwo").num_rows == 2
    with pytest.raises(InvalidFile, match="which the method 'unsupervised' learns from"):
        check(b"one", method="supervised")
    with pytest.raises(InvalidFile, match=r"Document 2 cannot be read\. Error: it is not valid"):
        check(b"one\n<|endoftext|>\n\xff")
