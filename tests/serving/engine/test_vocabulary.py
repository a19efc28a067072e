from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models

from serving.engine.vocabulary import Vocabulary


def test_every_byte_has_its_token(base_path: Path) -> None:
    vocabulary = Vocabulary.load(base_path)
    assert [vocabulary.bytes_of(i) for i in range(256)] == [bytes([i]) for i in range(256)]


def test_part_of_a_character_reads_as_bytes(base_path: Path) -> None:
    vocabulary = Vocabulary.load(base_path)
    assert vocabulary.text_of(ord("a")) == "a"
    assert vocabulary.text_of(0xE2) == "bytes:\\xe2"


def test_texts_are_distinct(base_path: Path) -> None:
    vocabulary = Vocabulary.load(base_path)
    assert len({vocabulary.text_of(i) for i in range(259)}) == 259


def test_tokens_of_the_same_bytes_have_keys_of_their_own() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "<0x61>": 1, "<0xE2>": 2, "b": 3}, []))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    vocabulary = Vocabulary(tokenizer.to_str())
    assert vocabulary.texts_of([3, 0, 2, 1]) == ["b", "a", "bytes:\\xe2", "token_id:1"]
    assert vocabulary.texts_of([1, 0]) == ["a", "token_id:0"]


def test_special_token_reads_as_it_is_written(base_path: Path) -> None:
    assert Vocabulary.load(base_path).text_of(258) == "<|im_end|>"


def test_id_beyond_the_tokenizer_is_empty(base_path: Path) -> None:
    assert Vocabulary.load(base_path).bytes_of(5000) == b""


def test_sentencepiece_tokens_show_spaces_and_fallback_bytes() -> None:
    tokenizer = Tokenizer(models.BPE({"▁the": 0, "<0xE2>": 1, "er": 2}, []))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    definition = json.loads(tokenizer.to_str())
    vocabulary = Vocabulary(json.dumps(definition))
    assert [vocabulary.bytes_of(i) for i in range(3)] == [b" the", b"\xe2", b"er"]
