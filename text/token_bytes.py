"""Single tokens as bytes, and the text of byte-level tokens that arrive one by one.

The text of byte-level tokens is the text of their bytes, whatever stands beside them. So one decoder of
UTF-8 says what they add to a text, and the bytes, the text and the places of tokens in it always agree.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import tokenizers

from .bytelevel import CHAR_TO_BYTE

WORD_START = "▁"


class TokenBytes:
    """The tokens of one tokenizer, by id."""

    def __init__(self, parsed: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> None:
        """`parsed` is the tokenizer.json that `tokenizer` was made of."""
        added = parsed.get("added_tokens", ())
        self._added = {t["id"]: t["content"] for t in added}
        self._special_ids = {t["id"] for t in added if t["special"]}
        self._tokenizer = tokenizer
        decoders = _types(parsed.get("decoder"))
        self._is_byte_level = "ByteLevel" in decoders
        self.are_the_text = decoders == {"ByteLevel"}
        """A text is what its tokens' bytes spell; else a token's text depends on its neighbours."""
        self.written = lru_cache(maxsize=65536)(self._written)

    def shown(self, token_id: int) -> bytes:
        """What the token adds to a generated text, in which special tokens do not show."""
        return b"" if token_id in self._special_ids else self.written(token_id)

    def shares(self, ids: Sequence[int], num_bytes: int) -> list[int]:
        """How many bytes of a text each of its tokens stands for; they add up to the text's `num_bytes`.

        Where the tokens spell the text, those of the token; elsewhere they are spread in the same proportions.
        """
        lengths = [len(self.written(token_id)) for token_id in ids]
        total = sum(lengths)
        if total == num_bytes:
            return lengths
        ends = (num_bytes * end // max(total, 1) for end in itertools.accumulate(lengths))
        shares = [end - start for start, end in itertools.pairwise((0, *ends))]
        if shares:
            shares[-1] += num_bytes - sum(shares)
        return shares

    def _written(self, token_id: int) -> bytes:
        """The token itself, special tokens as they are written."""
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            # Models pad their vocabulary; such an id stands for nothing.
            return b""
        if self._is_byte_level:
            is_known = all(char in CHAR_TO_BYTE for char in token)
            return bytes(CHAR_TO_BYTE[char] for char in token) if is_known else token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(WORD_START, " ").encode()


class ByteStream:
    """Decodes byte-level tokens one by one and holds back a character until its last byte is there."""

    def __init__(self, token_bytes: TokenBytes, shown_ids: Collection[int] = ()) -> None:
        """`shown_ids`: special tokens that are part of the text."""
        self._bytes = token_bytes
        self._shown_ids = shown_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_unfinished(self) -> bool:
        """Whether a character has begun whose last byte is not there yet."""
        return bool(self._decoder.getstate()[0])

    def step(self, token_id: int) -> str | None:
        """The text that `token_id` completes, if any."""
        is_shown = token_id in self._shown_ids
        written = self._bytes.written(token_id) if is_shown else self._bytes.shown(token_id)
        return self._decoder.decode(written) or None

    def flush(self) -> str:
        """What is still held back at the end of generation, an unfinished character as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _types(part: Any) -> set[str]:
    """The types of a tokenizer's decoder, of a sequence of decoders those of its members."""
    if not isinstance(part, dict):
        return set()
    if part.get("type") == "Sequence":
        return set().union(*map(_types, part.get("decoders", ())))
    return {str(part.get("type", ""))}
