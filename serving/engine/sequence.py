"""One choice being generated: what was asked for, how far it is, and what it reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from serving.engine.kv.cache import CacheKey, CacheRow
from serving.engine.kv.prefix import KvPrefix
from serving.engine.slots.lora import Adapter
from text.tokenizer import Tokenizer

from .constraints import Constraint, Matcher
from .failures import EngineError
from .heads import Head
from .sampling import Draw, SamplingParams, TokenLogprob
from .text import GeneratedToken, Piece, TextStream

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generate:
    """A request to the engine for one choice."""

    prompt: list[int]
    max_tokens: int | None = None
    """None: as many as the context holds."""
    adapter: Adapter | KvPrefix | None = None
    """What a tuned model puts on top of the base."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    """A grammar that the reply is held to."""
    shown_ids: frozenset[int] = frozenset()
    """Special tokens that are part of the text, as they are written. Others are not."""
    cache_salt: str = ""
    """The project. Keys and values are reused only between requests of equal salt (and adapter), and
    those of different salts take turns."""
    num_prompt_logprobs: int | None = None
    """As `SamplingParams.num_logprobs`, for the tokens of the prompt."""
    first_scored: int = 1
    """The first of the prompt's tokens that these are for: what stands before it need not be computed again."""


@dataclass(frozen=True)
class Pool:
    """A request to the engine for what a head makes of a text, by the hidden state of its last token."""

    prompt: list[int]
    head: Head
    adapter: Adapter | KvPrefix | None = None
    cache_salt: str = ""

    @property
    def reading(self) -> Generate:
        """What has to be computed for it: the text is read, and nothing generated."""
        return Generate(
            prompt=self.prompt,
            max_tokens=0,
            adapter=self.adapter,
            cache_salt=self.cache_salt,
        )


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    """All generated tokens, those cut off by a stop string included."""
    cached_tokens: int
    """Prompt tokens whose keys and values were at hand."""


@dataclass(frozen=True)
class Delta:
    """News of a choice. The last one carries `finish_reason` and `usage`."""

    text: str = ""
    tokens: list[GeneratedToken] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Once, when the prompt has been read; None for its first token, which nothing predicts, and others not scored."""
    end: GeneratedToken | None = None
    """The token by which the model ended the reply, in the last one. It is no part of the text."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    pooled: list[float] | None = None
    """What the head of a `Pool` says, a number for each of its rows. Once, when the text has been read."""


News = Delta | EngineError


class Sequence:
    """A choice in the engine. Once submitted, it is used by who drives the engine alone."""

    def __init__(
        self,
        request: Generate,
        max_tokens: int,
        tokenizer: Tokenizer,
        deliver: Callable[[News], None],
        head: Head | None = None,
    ) -> None:
        self.request = request
        self.max_tokens = max_tokens
        self.deliver = deliver
        self.head = head
        self.prefix = request.adapter if isinstance(request.adapter, KvPrefix) else None
        self.lora = request.adapter if isinstance(request.adapter, Adapter) else None
        # A trained prefix is at the beginning of the tokens, and nowhere else: nobody is told of it.
        self.num_virtual_tokens = self.prefix.num_tokens if self.prefix is not None else 0
        virtual = self.prefix.token_ids if self.prefix is not None else []
        self.tokens = virtual + request.prompt
        self.num_prompt_tokens = len(self.tokens)
        self.first_scored = self.num_virtual_tokens + request.first_scored
        self.counts: Counter[int] = Counter()
        self.prompt_logprobs: list[TokenLogprob | None] = [None] * request.first_scored
        self.num_cached_tokens: int | None = None
        self.row: CacheRow | None = None
        self.slot: int | None = None
        # Of its project: of two that want all, one of weight 3 gets three times as much as one of weight 1.
        self.weight = 1
        # When it came, and since when all slots have been taken by other adapters.
        self.came_s = 0.0
        self.blocked_since_s: float | None = None
        # Numbers in the order of all turns: its last one, and the last one before it got its place.
        self.last_turn = 0
        self.start_turn = 0
        # It does not have to give way to other projects before it has generated so many tokens.
        self.num_kept_tokens = 0
        self.matcher: Matcher | None = None
        if request.constraint is not None:
            self.matcher = request.constraint.matcher()
        self._text = TextStream(tokenizer, request.prompt, request.stop, request.shown_ids)
        self._stop_ids = tokenizer.stop_ids

    @property
    def key(self) -> CacheKey:
        adapter, strength = self.request.adapter, 1.0 if self.lora is None else self.lora.strength
        return CacheKey(None if adapter is None else adapter.id, self.request.cache_salt, strength)

    @property
    def project(self) -> str:
        """Whom it is computed for."""
        return self.request.cache_salt

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def is_done_at_once(self) -> bool:
        """Nothing of it needs to be computed."""
        return not self.max_tokens and not self.is_scoring and self.head is None

    @property
    def is_scoring(self) -> bool:
        """The log-probabilities of the prompt's tokens are still to be found."""
        return self.request.num_prompt_logprobs is not None and len(self.prompt_logprobs) < len(
            self.request.prompt
        )

    @property
    def num_reusable_tokens(self) -> int:
        """So many of the first tokens need not be computed again where their keys and values are at hand."""
        return self.first_scored - 1 if self.is_scoring else len(self.tokens) - 1

    def draw(self, mask: Tensor | None = None) -> Draw:
        """How the next token is to be sampled, of those that the mask allows."""
        return Draw(self.request.sampling, self.num_generated, self.counts, mask)

    def accept(self, token_id: int, logprob: TokenLogprob | None) -> bool:
        """Take the next token and report what it released. True if it was the last one.

        Raises `ConstraintFailed`.
        """
        self.tokens.append(token_id)
        self.counts[token_id] += 1
        if token_id in self._stop_ids:
            rest = self._text.flush()
            end = GeneratedToken(token_id, logprob, self._text.num_chars)
            return self._finish(rest, "stop", None if rest.is_stopped else end)
        piece = self._text.push(GeneratedToken(token_id, logprob))
        if piece.is_stopped:
            return self._finish(piece, "stop")
        is_complete = False
        if self.matcher is not None:
            self.matcher.accept(token_id)
            is_complete = self.matcher.is_complete
        if is_complete or self.num_generated >= self.max_tokens:
            rest = self._text.flush()
            whole = Piece(piece.text + rest.text, piece.tokens + rest.tokens)
            return self._finish(whole, "stop" if is_complete or rest.is_stopped else "length")
        if piece.text or piece.tokens:
            self.deliver(Delta(piece.text, piece.tokens))
        return False

    def accept_prompt(self) -> bool:
        """The whole prompt has been read. True if nothing is to be generated."""
        if self.request.num_prompt_logprobs is not None:
            self.deliver(Delta(prompt_logprobs=self.prompt_logprobs))
        return self.max_tokens == 0 and self._finish(Piece(), "length")

    def _finish(
        self, piece: Piece, reason: FinishReason, end: GeneratedToken | None = None
    ) -> bool:
        num_cached = max(0, (self.num_cached_tokens or 0) - self.num_virtual_tokens)
        usage = Usage(len(self.request.prompt), self.num_generated, num_cached)
        self.deliver(Delta(piece.text, piece.tokens, end=end, finish_reason=reason, usage=usage))
        return True
