from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from text.tokenizer import Tokenizer, TokenizerError

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def sentencepiece_like(prepend_scheme: str) -> Tokenizer:
    """A tokenizer that marks word starts, as Llama 2's and Mistral's do, and puts <s> in front."""
    pieces = ["<s>", "</s>", "▁", "a", "b", "▁a", "▁b", "ab", "▁ab"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")],
        )
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    inner.decoder = tokenizers.decoders.Metaspace(prepend_scheme=prepend_scheme)
    inner.add_special_tokens(["<s>", "</s>"])
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(inner.to_str(), names=names, eos_ids=frozenset())


def test_encode_special_token_in_text_stays_plain_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_end|>")
    assert ids == list(b"<|im_end|>")
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [258]
    assert tokenizer.encode_prompt("<|im_end|>") == ids


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.sampled_from([*SPECIALS, "<|", "|>", "im_end"]), st.text())).map("".join)
)
def test_encode_any_text_decodes_to_itself_without_special_tokens(
    tokenizer: Tokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids.intersection(ids)
    assert tokenizer.decode(ids) == text


@settings(deadline=None)
@given(st.text(min_size=1))
def test_decode_stream_any_text_equals_decode_at_once(tokenizer: Tokenizer, text: str) -> None:
    stream = tokenizer.decode_stream(tokenizer.encode("before"))
    pieces = [stream.step(token_id) for token_id in tokenizer.encode(text)]
    assert "".join(piece or "" for piece in pieces) + stream.flush() == text


def test_decode_stream_holds_back_unfinished_characters(tokenizer: Tokenizer) -> None:
    stream = tokenizer.decode_stream([])
    assert [stream.step(token_id) for token_id in "é€".encode()] == [None, "é", None, None, "€"]
    assert stream.flush() == ""


def test_decode_stream_flushes_what_never_became_a_character(tokenizer: Tokenizer) -> None:
    stream = tokenizer.decode_stream([])
    assert stream.step("é".encode()[0]) is None
    assert stream.flush() == "�"


def test_decode_stream_lets_go_of_bytes_that_never_become_text(tokenizer: Tokenizer) -> None:
    stream = tokenizer.decode_stream([])
    pieces = [stream.step(0xFF) for _ in range(20)]
    assert "".join(piece or "" for piece in pieces) + stream.flush() == "�" * 20
    assert any(pieces)


def test_decode_stream_shows_no_special_tokens(tokenizer: Tokenizer) -> None:
    stream = tokenizer.decode_stream([])
    assert [stream.step(token_id) for token_id in (258, ord("a"))] == [None, "a"]


def test_names_of_the_tiny_base(tokenizer: Tokenizer) -> None:
    assert tokenizer.eos_ids == {258}
    assert (tokenizer.eos_id, tokenizer.bos_id, tokenizer.vocab_size) == (258, 257, 259)


def test_raw_prompt_gets_the_bos_that_the_base_expects() -> None:
    tokenizer = sentencepiece_like("first")
    assert tokenizer.encode_prompt("ab") == [
        0,
        *tokenizer.encode("ab", position="after_special"),
    ]
    assert tokenizer.encode("ab") == [8]


def test_documents_end_as_in_pretraining(tokenizer: Tokenizer, smollm_path: Path) -> None:
    assert tokenizer.encode_document("a<|im_end|>") == [*b"a<|im_end|>", 258]
    assert tokenizer.encode_document("") == []
    with_bos = sentencepiece_like("first")
    assert with_bos.encode_document("ab") == [*with_bos.encode_prompt("ab"), 1]
    smollm = Tokenizer.load(smollm_path, document_end="<|endoftext|>")
    assert smollm.encode_document("The end.") == [*smollm.encode("The end."), 0]
    # Whoever writes documents stops behind one; what ends a turn is the same.
    assert smollm.eos_ids == {2}
    assert smollm.stop_ids == {0, 2}
    with pytest.raises(TokenizerError, match="no token '<end>' to end texts"):
        Tokenizer.load(smollm_path, document_end="<end>")


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_text_that_goes_on_gets_no_word_start(scheme: str) -> None:
    tokenizer = sentencepiece_like(scheme)
    assert tokenizer.encode("ab", position="continuation") == [7]
    after_special = [7] if scheme == "first" else [8]
    assert tokenizer.encode("<s>ab", allow_special=True) == [0, *after_special]


def test_special_token_that_swallows_white_space() -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "\n": 1}, merges=[]))
    inner.add_special_tokens([tokenizers.AddedToken("<e>", rstrip=True, special=True)])
    tokenizer = Tokenizer(inner.to_str(), names={}, eos_ids=frozenset())
    assert tokenizer.encode("a<e>\n\na\n", allow_special=True) == [0, 2, 0, 1]
    assert tokenizer.eos_id is None


def test_load_missing_or_broken_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no readable tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not understood") as caught:
        Tokenizer.load(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_smollm_splits_digits_and_keeps_line_breaks_together(smollm_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm_path)
    inner = tokenizers.Tokenizer.from_file(str(smollm_path / "tokenizer.json"))
    tokens = [inner.id_to_token(i) for i in tokenizer.encode("List:\n\n1. a  2\n    10")]
    assert tokens == ["List", ":", "ĊĊ", "1", ".", "Ġa", "ĠĠ", "2", "ĊĠĠĠĠ", "1", "0"]
    assert tokenizer.eos_ids == {2}
    assert tokenizer.vocab_size == 49152
