"""Grammars that a choice is held to: which tokens may come next, as a mask for each choice of a step.

llguidance does the work. A grammar is compiled once; each choice gets a matcher of its own, which is as good as
free. Masks are found one after the other, so that each matcher answers for its own time: for an ordinary schema
some ten microseconds each, while on a GPU the model computes. Several threads were slower.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path

import torch
from llguidance import LLMatcher, LLParserLimits
from torch import Tensor

from .failures import ConstraintFailed
from .grammar_limits import LIMITS, grammar_tokens, in_one_line

# What a grammar keeps, and how much of it each token that was matched adds: upper bounds of what was measured.
BYTES_PER_GRAMMAR = 1 << 20
BYTES_PER_GRAMMAR_BYTE = 64
BYTES_PER_TOKEN = 2048
# Then it is better compiled anew: what it keeps is not without end.
WORN_TOKENS = 20_000
# What the processor may spend on one choice's masks: so much at once, and in the long run as much for each token.
CREDIT_S = 0.1
CREDIT_PER_TOKEN_S = 0.001
WORD_BITS = 32


class GrammarRefused(Exception):
    """What llguidance says against a grammar."""


class GrammarVocabulary:
    """A base's tokens as grammars see them. Building it takes half a second for 50,000 tokens."""

    def __init__(self, tokenizer_file: Path, *, vocab_size: int, stop_ids: Collection[int]) -> None:
        """`vocab_size` is how many logits the model gives.

        Raises `GrammarRefused` for a tokenizer that llguidance does not know how to read.
        """
        if not stop_ids:
            raise GrammarRefused("the tokenizer names no token that ends a text")
        self.tokenizer_file = tokenizer_file
        self.size = vocab_size
        self.stop_ids = sorted(stop_ids)
        try:
            self.tokens = grammar_tokens(tokenizer_file, vocab_size, self.stop_ids)
        except ValueError as error:
            raise GrammarRefused(in_one_line(str(error))) from error


class Constraint:
    """A compiled grammar."""

    def __init__(
        self, vocabulary: GrammarVocabulary, grammar: str, *, limits: LLParserLimits = LIMITS
    ) -> None:
        """`grammar` is what one of the functions `LLMatcher.grammar_from_…` gives.

        Raises `GrammarRefused`. Other threads run meanwhile.
        """
        self.vocabulary = vocabulary
        self.num_tokens = 0
        self.is_broken = False
        self._compiled_bytes = BYTES_PER_GRAMMAR + BYTES_PER_GRAMMAR_BYTE * len(grammar)
        self._first = LLMatcher(vocabulary.tokens, grammar, limits=limits, log_level=0)
        # Some grammars turn out to allow nothing only when a first token is looked for.
        Matcher(self, self._first).mask()
        if reason := self._first.get_error():
            raise GrammarRefused(in_one_line(reason))

    @property
    def size_bytes(self) -> int:
        return self._compiled_bytes + BYTES_PER_TOKEN * self.num_tokens

    @property
    def is_worn(self) -> bool:
        """Whether it should be compiled anew for others: what its matchers have in common is broken, or large."""
        return self.is_broken or self.num_tokens > WORN_TOKENS

    def matcher(self) -> Matcher:
        """At the beginning of the grammar."""
        return Matcher(self, self._first.deep_copy())


class Matcher:
    """How far one choice is in its grammar."""

    def __init__(self, constraint: Constraint, matcher: LLMatcher) -> None:
        self._constraint = constraint
        self._matcher = matcher
        self._bits = torch.empty(
            -(-constraint.vocabulary.size // WORD_BITS) * (WORD_BITS // 8), dtype=torch.uint8
        )
        self._credit_s = CREDIT_S

    @property
    def is_complete(self) -> bool:
        """The text is a whole one, and nothing can be added to it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def failure(self) -> ConstraintFailed | None:
        if self._matcher.is_error():
            self._constraint.is_broken = True
            return ConstraintFailed(in_one_line(self._matcher.get_error()))
        if self._credit_s < 0:
            return ConstraintFailed("it takes too long to find out what may come next")
        return None

    def mask(self) -> Tensor:
        """A bit for each token, the first one the lowest of the first byte: whether it may come next.

        Whatever goes wrong, `failure` says; the mask is of no use then.
        """
        began_s = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.data_ptr(), self._bits.numel())
        self._credit_s -= time.thread_time() - began_s
        return self._bits

    def accept(self, token_id: int) -> None:
        """Take the next token. Raises `ConstraintFailed`."""
        began_s = time.thread_time()
        self._matcher.consume_token(token_id)
        spent_s = time.thread_time() - began_s
        self._constraint.num_tokens += 1
        self._credit_s = min(self._credit_s + CREDIT_PER_TOKEN_S, CREDIT_S) - spent_s
        if failure := self.failure:
            raise failure


def blocked(masks: Iterable[Tensor], vocab_size: int, device: torch.device) -> Tensor:
    """What to add to logits (N, V) so that nothing is drawn but what the masks allow: 0, or minus infinity."""
    packed = torch.stack(list(masks)).to(device).int()
    added = _table(device).index_select(0, packed.view(-1))
    return added.view(len(packed), -1)[:, :vocab_size]


@lru_cache(maxsize=4)
def _table(device: torch.device) -> Tensor:
    """What each of the 256 bytes of a mask adds to the logits of its eight tokens."""
    return torch.tensor(
        [[0.0 if byte >> bit & 1 else float("-inf") for bit in range(8)] for byte in range(256)],
        device=device,
    )
