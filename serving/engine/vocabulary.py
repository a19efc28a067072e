"""Single tokens as text and bytes, for log-probabilities; running text goes through `text.TextStream`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path

import tokenizers

from text.token_bytes import TokenBytes


class Vocabulary:
    """The tokens of a base model's tokenizer, by id."""

    def __init__(self, definition: str) -> None:
        """`definition` is the JSON of a tokenizer.json."""
        tokenizer = tokenizers.Tokenizer.from_str(definition)
        self._bytes = TokenBytes(json.loads(definition), tokenizer)
        self.bytes_of = self._bytes.shown
        """What a token adds to generated text: nothing if it is special."""

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Of the base folder `path`."""
        return cls((path / "tokenizer.json").read_text(encoding="utf-8"))

    def text_of(self, token_id: int) -> str:
        """The token's text; a token that is part of a character reads `bytes:\\xe2\\x80`.

        So tokens of different bytes never have the same text.
        """
        raw = self._bytes.written(token_id)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def texts_of(self, token_ids: Iterable[int]) -> list[str]:
        """Those of different tokens, each another text: of tokens that mean the same bytes, all but the first read
        `token_id:` and their number."""
        texts: dict[str, int] = {}
        for token_id in token_ids:
            text = self.text_of(token_id)
            texts[f"token_id:{token_id}" if text in texts else text] = token_id
        return list(texts)

    def offsets(self, token_ids: Iterable[int], text: str, *, with_special: bool) -> list[int]:
        """How many characters of `text` are complete before each of the tokens that it consists of.

        `with_special` says whether special tokens are part of the text as they are written.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        of_token = self._bytes.written if with_special else self._bytes.shown
        offsets, num_chars, is_start = [], 0, True
        for token_id in token_ids:
            offsets.append(num_chars)
            raw = of_token(token_id)
            if raw and is_start and not text.startswith(" "):
                # The mark that a word starts here is no space where the text itself starts.
                raw = raw.removeprefix(b" ")
            is_start = is_start and not raw
            num_chars += len(decoder.decode(raw))
        return offsets
