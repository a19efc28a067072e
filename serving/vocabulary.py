"""Single tokens as text and bytes, for log-probabilities; running text goes through `text.TextStream`."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from modeling.bytelevel import CHAR_TO_BYTE

WORD_START = "▁"


class Vocabulary:
    """The tokens of a base model's tokenizer, by id."""

    def __init__(self, definition: str) -> None:
        """`definition` is the JSON of a tokenizer.json."""
        parsed = json.loads(definition)
        self._tokenizer = tokenizers.Tokenizer.from_str(definition)
        self._added = {t["id"]: t["content"] for t in parsed.get("added_tokens", ())}
        self._is_byte_level = "ByteLevel" in _types(parsed.get("decoder"))
        self.bytes_of = lru_cache(maxsize=65536)(self._bytes_of)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Of the base folder `path`."""
        return cls((path / "tokenizer.json").read_text(encoding="utf-8"))

    def text_of(self, token_id: int) -> str:
        """The token's text; a token that is part of a character reads `bytes:\\xe2\\x80`.

        So tokens of different bytes never have the same text.
        """
        raw = self.bytes_of(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            # Models pad their vocabulary; such an id stands for nothing.
            return b""
        if self._is_byte_level:
            return b"".join(
                bytes([CHAR_TO_BYTE[char]]) if char in CHAR_TO_BYTE else char.encode()
                for char in token
            )
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(WORD_START, " ").encode()


def _types(part: Any) -> set[str]:
    """The types of a tokenizer's decoder and of the decoders it is made of."""
    if not isinstance(part, dict):
        return set()
    nested = (_types(p) for p in part.get("decoders", ()))
    return {part.get("type", "")}.union(*nested)
