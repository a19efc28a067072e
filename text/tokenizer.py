"""Text to token ids and back, without torch.

A thin layer over `tokenizers` that settles what the library leaves to its callers: text typed by a
user never turns into a special token, and text that continues other text gets no invented space.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import tokenizers

from .token_bytes import ByteStream, TokenBytes

# The library would spread batches over threads of its own, and warn when the process forks later.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Where a piece of text stands. It decides whether a SentencePiece-like tokenizer puts its
# word-start mark in front: at the start of everything, after a special token, or in running text.
Position = Literal["start", "after_special", "continuation"]

# An unfinished UTF-8 character needs at most three more bytes, hence at most three more tokens.
MAX_HELD_TOKENS = 4
# Template text and short turns repeat between examples and requests; long texts are not kept.
CACHED_TEXT_CHARS = 1024


class TokenizerError(Exception):
    """The tokenizer files of a base model are missing or not understood."""


class Tokenizer:
    """A base model's tokenizer. Safe to share between threads: nothing in it changes after loading.

    Attributes: `eos_ids` every id that ends a turn, `stop_ids` every id that ends generation, `eos_id` the one that training appends to a
    completion (None if the base names none), `bos_id` likewise, `document_end_id` the one behind a whole
    text, `special_tokens` text to id.
    """

    def __init__(
        self,
        definition: str,
        *,
        names: dict[str, str],
        eos_ids: frozenset[int],
        document_end: str | None = None,
    ) -> None:
        """`definition` is the JSON of a tokenizer.json, `names` maps bos_token, eos_token… to text.

        Texts end as completions do unless `document_end` names another token.
        """
        parsed = json.loads(definition)
        parsed["padding"] = parsed["truncation"] = None
        self.names = names
        self.special_tokens: dict[str, int] = {
            token["content"]: token["id"] for token in parsed["added_tokens"] if token["special"]
        }
        self.special_ids = frozenset(self.special_tokens.values())
        self._tokenizer = _load(parsed)
        self._token_bytes = TokenBytes(parsed, self._tokenizer)
        after_special = _without_word_start(parsed, first_only=True)
        continuation = _without_word_start(parsed, first_only=False)
        self._encoders: dict[Position, tokenizers.Tokenizer] = {
            "start": self._tokenizer,
            "after_special": self._tokenizer if after_special == parsed else _load(after_special),
            "continuation": self._tokenizer if continuation == parsed else _load(continuation),
        }
        self._special_pattern = _special_pattern(parsed["added_tokens"])
        self.bos_id = self._id_of("bos_token")
        self.eos_id = self._id_of("eos_token")
        self.document_end_id = self.eos_id
        if document_end is not None:
            self.document_end_id = self._tokenizer.token_to_id(document_end)
            if self.document_end_id is None:
                raise TokenizerError(f"the tokenizer has no token {document_end!r} to end texts")
        self.eos_ids = eos_ids | _present(self.eos_id)
        self.stop_ids = self.eos_ids | _present(self.document_end_id)
        self._prefix_ids = self._find_prefix_ids()
        self._encode_cached = lru_cache(maxsize=4096)(self._encode_uncached)

    @classmethod
    def load(cls, path: Path, *, document_end: str | None = None) -> Tokenizer:
        """Reads the tokenizer of the base folder `path`. Raises `TokenizerError`."""
        try:
            definition = (path / "tokenizer.json").read_text(encoding="utf-8")
        except OSError as error:
            raise TokenizerError(f"{path} has no readable tokenizer.json: {error}") from error
        try:
            return cls(
                definition,
                names=_token_names(path),
                eos_ids=_eos_ids(path),
                document_end=document_end,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TokenizerError(
                f"{path} holds tokenizer files that are not understood: {error}"
            ) from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def max_token_chars(self) -> int:
        """So many characters of a text one token stands for at most.

        Where the base normalises text first, which can shorten it, or joins unknown words, that is a guess
        on the safe side.
        """
        definition = json.loads(self._tokenizer.to_str())
        # Users cannot spell special tokens.
        tokens = (
            self._tokenizer.get_vocab(with_added_tokens=True).keys() - self.special_tokens.keys()
        )
        longest = max(map(len, tokens), default=1)
        is_exact = definition["normalizer"] is None and definition["model"]["type"] == "BPE"
        return longest if is_exact else max(8 * longest, 512)

    def encode(
        self, text: str, allow_special: bool = False, *, position: Position = "start"
    ) -> list[int]:
        """Ids of `text`, nothing added.

        Special tokens that are spelled out in `text` stay plain text unless `allow_special`.
        """
        if allow_special:
            return self._encode_trusted(text, position)
        if len(text) > CACHED_TEXT_CHARS:
            return list(self._encode_uncached(text, position))
        return list(self._encode_cached(text, position))

    def encode_prompt(self, text: str) -> list[int]:
        """What stands before the first token that is learnt or sampled behind a raw prompt.

        That is `text` as plain text, behind the tokens (such as BOS) that the base expects first. An empty
        prompt has one token all the same, for something must predict the first token.
        """
        position: Position = "after_special" if self._prefix_ids else "start"
        ids = [*self._prefix_ids, *self.encode(text, position=position)]
        return ids or ([] if self.start_id is None else [self.start_id])

    def encode_document(self, text: str) -> list[int]:
        """A whole text as the base has met texts: behind the tokens that it expects first, its end behind it.

        Nothing of an empty one.
        """
        if not text:
            return []
        position: Position = "after_special" if self._prefix_ids else "start"
        ids = [*self._prefix_ids, *self.encode(text, position=position)]
        return ids if self.document_end_id is None else [*ids, self.document_end_id]

    def document_bytes(self, text: str, ids: Sequence[int]) -> list[int]:
        """How many bytes of `text` each of its `encode_document` stands for: none what is before or behind it."""
        if not ids:
            return []
        before, behind = len(self._prefix_ids), int(self.document_end_id is not None)
        own = ids[before : len(ids) - behind]
        return [*[0] * before, *self._token_bytes.shares(own, len(text.encode())), *[0] * behind]

    @property
    def start_id(self) -> int | None:
        """The token that stands between documents, if the base names one."""
        return self.eos_id if self.bos_id is None else self.bos_id

    def split_special(self, text: str) -> Iterator[str | int]:
        """Trusted `text` cut at its special tokens: the texts between them, and their ids."""
        start = 0
        for match in self._special_pattern.finditer(text) if self._special_pattern else ():
            if match.start() > start:
                yield text[start : match.start()]
            yield self._special_id(match[0])
            start = match.end()
        if start < len(text):
            yield text[start:]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def decode_stream(
        self, prompt_ids: Sequence[int], *, shown_ids: Collection[int] = ()
    ) -> DecodeStream | ByteStream:
        """Text of tokens that arrive one by one after `prompt_ids`.

        Special tokens are no part of it but for `shown_ids`, which are as they are written.
        """
        if self._token_bytes.are_the_text:
            return ByteStream(self._token_bytes, shown_ids)
        shown = {i: token for token, i in self.special_tokens.items() if i in shown_ids}
        return DecodeStream(self, prompt_ids, shown)

    def _encode_trusted(self, text: str, position: Position) -> list[int]:
        ids: list[int] = []
        for piece in self.split_special(text):
            if isinstance(piece, int):
                ids.append(piece)
                position = "after_special"
            else:
                ids += self.encode(piece, position=position)
        return ids

    def _encode_uncached(self, text: str, position: Position) -> tuple[int, ...]:
        # Unlike `encode`, this lets other threads run, and it does not look for offsets.
        (encoding,) = self._encoders[position].encode_batch_fast([text], add_special_tokens=False)
        return tuple(encoding.ids)

    def _special_id(self, matched: str) -> int:
        exact = self.special_tokens.get(matched)
        return self.special_tokens[matched.strip()] if exact is None else exact

    def _id_of(self, name: str) -> int | None:
        content = self.names.get(name)
        found = None if content is None else self._tokenizer.token_to_id(content)
        return None if found is None else int(found)

    def _find_prefix_ids(self) -> list[int]:
        """The ids that the tokenizer's own post-processor puts in front of a text."""
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return list(full[:start])
        return []


class DecodeStream:
    """Decodes token by token and holds back what may still change: an unfinished character.

    A token's text can depend on the one before it (a leading space, the rest of a character), so the
    stream decodes a short window twice, without and with the new token, and hands out the difference.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], shown: Mapping[int, str]
    ) -> None:
        """`shown`: special tokens that are part of the text."""
        self._tokenizer = tokenizer
        self._shown = shown
        self._window = list(prompt_ids[-MAX_HELD_TOKENS:])
        self._num_read = len(self._window)

    @property
    def is_unfinished(self) -> bool:
        """Whether a character has begun whose last token is not there yet."""
        return len(self._window) > self._num_read

    def step(self, token_id: int) -> str | None:
        """The text that `token_id` completes, or None while a character is unfinished."""
        if token_id in self._shown:
            text = self.flush() + self._shown[token_id]
            # What comes next stands behind a special token.
            self._window = [token_id]
            self._num_read = 1
            return text
        self._window.append(token_id)
        is_held_long = len(self._window) - self._num_read > MAX_HELD_TOKENS
        return self._take(keep_unfinished=not is_held_long)

    def flush(self) -> str:
        """What is still held back at the end of generation, unfinished characters as U+FFFD."""
        return self._take(keep_unfinished=False) or ""

    def _take(self, *, keep_unfinished: bool) -> str | None:
        before = self._decode(self._window[: self._num_read])
        after = self._decode(self._window)
        if keep_unfinished and after.endswith("�"):
            return None
        new = after[len(before) :]
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        return new or None

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


def _load(parsed: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parsed))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"tokenizer.json is not understood: {error}") from error
    # Special tokens in text are encoded as text; `split_special` finds those that can be trusted.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _special_pattern(added_tokens: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """Matches the special tokens, the longest first, with the white space that they swallow."""
    special = sorted((t for t in added_tokens if t["special"]), key=lambda t: -len(t["content"]))
    alternatives = (
        (r"\s*" if t.get("lstrip") else "")
        + re.escape(t["content"])
        + (r"\s*" if t.get("rstrip") else "")
        for t in special
    )
    return re.compile("|".join(alternatives)) if special else None


def _without_word_start(parsed: dict[str, Any], *, first_only: bool) -> dict[str, Any]:
    """The definition without the parts that put a word-start mark in front of a text.

    With `first_only` only the mark that belongs to the very first text goes; the library would not
    have put it behind a special token either.
    """

    def strip(part: Any) -> Any:
        if isinstance(part, list):
            return [strip(p) for p in part if first_only or _type_of(p) != "Prepend"]
        if not isinstance(part, dict):
            return part
        part = {k: strip(v) for k, v in part.items()}
        if part.get("prepend_scheme") == "first" or (not first_only and "prepend_scheme" in part):
            part["prepend_scheme"] = "never"
        if not first_only and _type_of(part) == "ByteLevel":
            part["add_prefix_space"] = False
        return part

    normalizer = parsed.get("normalizer")
    if not first_only and _type_of(normalizer) == "Prepend":
        normalizer = None
    return {
        **parsed,
        "normalizer": strip(normalizer),
        "pre_tokenizer": strip(parsed.get("pre_tokenizer")),
    }


def _type_of(part: Any) -> str | None:
    return part.get("type") if isinstance(part, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def _token_names(path: Path) -> dict[str, str]:
    """bos_token, eos_token and so on by name; tokenizer_config.json wins over special_tokens_map.json."""
    named = {
        **_read_json(path / "special_tokens_map.json"),
        **_read_json(path / "tokenizer_config.json"),
    }
    names = {}
    for name, value in named.items():
        content = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(content, str):
            names[name] = content
    return names


def _present(token_id: int | None) -> frozenset[int]:
    return frozenset() if token_id is None else frozenset((token_id,))


def _eos_ids(path: Path) -> frozenset[int]:
    ids: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        value = _read_json(path / file).get("eos_token_id")
        ids.update(value if isinstance(value, list) else () if value is None else (value,))
    return frozenset(ids)
