"""Generated tokens to text, as a stream: whole characters only, cut before the first stop string."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from text.tokenizer import Tokenizer

from .sampling import TokenLogprob

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    token_id: int
    logprob: TokenLogprob | None
    offset: int = 0
    """How many characters of the generated text were complete before it."""
    text: str | None = None
    """What it adds to the text; None where it has a part in a character only."""


@dataclass
class Piece:
    """What one step released: text, and the tokens that the text was made of."""

    text: str = ""
    tokens: list[GeneratedToken] = field(default_factory=list)
    is_stopped: bool = False
    """A stop string was completed; the text ends before it and nothing more will come."""


class TextStream:
    """Turns tokens into text and holds back what may still become part of a stop string.

    A token is released with the last of its characters, so log-probabilities end where the text ends.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stop: Sequence[str],
        shown_ids: Collection[int] = (),
    ) -> None:
        """`shown_ids`: special tokens that are part of the text."""
        self._decoder = tokenizer.decode_stream(prompt, shown_ids=shown_ids)
        self._stop = tuple(stop)
        self._held_text = ""
        self._num_released_chars = 0
        # Each held token with the end of the last character that it has a part in.
        self._held_tokens: deque[tuple[GeneratedToken, int]] = deque()

    @property
    def num_chars(self) -> int:
        """Of the text that was released."""
        return self._num_released_chars

    def push(self, token: GeneratedToken) -> Piece:
        """Take one more token."""
        was_unfinished = self._decoder.is_unfinished
        new = self._decoder.step(token.token_id) or ""
        is_unfinished = self._decoder.is_unfinished
        is_whole = not was_unfinished and not is_unfinished and REPLACEMENT not in new
        start = self._num_released_chars + len(self._held_text)
        placed = replace(token, offset=start, text=new if is_whole else None)
        self._held_tokens.append((placed, start + len(new) + is_unfinished))
        return self._append(new)

    def flush(self) -> Piece:
        """The rest, at the end of generation."""
        piece = self._append(self._decoder.flush())
        if piece.is_stopped:
            return piece
        rest = self._release(len(self._held_text))
        left = [token for token, _ in self._held_tokens]
        self._held_tokens.clear()
        return Piece(piece.text + rest.text, piece.tokens + rest.tokens + left)

    def _append(self, new: str) -> Piece:
        num_old_chars = len(self._held_text)
        self._held_text += new
        cut = self._find_stop(num_old_chars) if new else None
        if cut is None:
            return self._release(len(self._held_text) - self._num_undecided_chars())
        end = self._num_released_chars + cut
        tokens = [token for token, _ in self._held_tokens if token.offset < end]
        piece = Piece(self._held_text[:cut], tokens, is_stopped=True)
        self._held_text = ""
        self._held_tokens.clear()
        return piece

    def _find_stop(self, num_old_chars: int) -> int | None:
        """Where to cut the held text: before the stop string that is complete first."""
        found: tuple[int, int] | None = None  # (end, start)
        for stop in self._stop:
            start = self._held_text.find(stop, max(0, num_old_chars - len(stop) + 1))
            if start >= 0 and (found is None or (start + len(stop), start) < found):
                found = (start + len(stop), start)
        return None if found is None else found[1]

    def _num_undecided_chars(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(self._held_text)), longest, -1):
                if self._held_text.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _release(self, num_chars: int) -> Piece:
        text, self._held_text = self._held_text[:num_chars], self._held_text[num_chars:]
        self._num_released_chars += num_chars
        tokens = []
        while self._held_tokens and self._held_tokens[0][1] <= self._num_released_chars:
            tokens.append(self._held_tokens.popleft()[0])
        return Piece(text, tokens)
