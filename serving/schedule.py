"""Who computes what in the next step.

Decoding sequences come first, one token each; what is left of the step's token budget goes to prompts,
in order of admission, in chunks. So a long prompt delays the others' next token by a bounded time.

Waiting sequences queue by adapter and salt, and the queues take turns. A sequence whose adapter finds
no free slot, or whose prefix another one is computing just now, holds up its own queue only.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .attention import Chunk
from .kv_cache import CacheKey, KvCache
from .lora import AdapterSlots
from .sequence import Sequence

# Room that a new row gets for generated tokens before it has to grow.
HEADROOM_TOKENS = 128


@dataclass(frozen=True)
class Limits:
    """What one engine takes on."""

    max_running: int = 64
    """Sequences in one batch."""
    step_tokens: int = 256
    """Tokens computed in one step."""
    drain_after_s: float = 2.0
    """Once a sequence has waited this long for a slot, nobody who needs one is admitted before it."""
    max_waiting: int = 1024
    """Sequences in the queues; what comes on top is refused."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_running <= self.step_tokens:
            raise ValueError("a step must have a token for each running sequence")


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk of a sequence to be computed in the coming step."""

    sequence: Sequence
    chunk: Chunk

    @property
    def is_last(self) -> bool:
        """Whether the chunk's last logits predict a token that is not known yet."""
        return self.chunk.end == len(self.sequence.tokens)


class Scheduler:
    def __init__(
        self,
        cache: KvCache,
        slots: AdapterSlots,
        limits: Limits,
        *,
        max_seq_len: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running: list[Sequence] = []
        self._waiting: dict[CacheKey, deque[Sequence]] = {}
        self._cache = cache
        self._slots = slots
        self._limits = limits
        self._max_seq_len = max_seq_len
        self._clock = clock

    @property
    def num_waiting(self) -> int:
        # A copy first: other threads ask, too.
        return sum(map(len, list(self._waiting.values())))

    def all_sequences(self) -> list[Sequence]:
        return [*self.running, *(s for queue in self._waiting.values() for s in queue)]

    def add(self, sequence: Sequence) -> None:
        self._waiting.setdefault(sequence.key, deque()).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is done or no longer wanted; what it held becomes free."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in (queue := self._waiting.get(sequence.key, deque())):
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.key]

    def plan(self) -> list[Work]:
        """The coming step: tokens sorted by slot, then by shared prefix, as attention and LoRA need."""
        self._admit()
        budget = self._limits.step_tokens
        planned: list[tuple[Sequence, int]] = []
        by_urgency = sorted(self.running, key=lambda s: _num_missing(s) > 1)
        for sequence in by_urgency:
            # An earlier turn of this loop may have preempted it.
            if sequence.row is None or not budget:
                continue
            num_tokens = min(_num_missing(sequence), budget)
            if self._make_room(sequence, num_tokens):
                planned.append((sequence, num_tokens))
                budget -= num_tokens
        work = [_work(s, n) for s, n in planned if s.row is not None]
        return sorted(work, key=_batch_order)

    def _admit(self) -> None:
        is_draining = any(self._is_overdue(queue[0]) for queue in self._waiting.values())
        has_admitted = True
        while has_admitted:
            has_admitted = False
            for key in list(self._waiting):
                if len(self.running) >= self._limits.max_running:
                    return
                head = self._waiting[key][0]
                if is_draining and key.adapter_id is not None and not self._is_overdue(head):
                    continue
                if self._start(head):
                    self._advance(key)
                    has_admitted = True

    def _advance(self, key: CacheKey) -> None:
        """Take the head off a queue and put the queue behind the others."""
        queue = self._waiting.pop(key)
        queue.popleft()
        if queue:
            self._waiting[key] = queue

    def _start(self, sequence: Sequence) -> bool:
        """Give the sequence a slot and a row. False if it has to wait, holding neither."""
        is_scoring = sequence.is_scoring
        if not is_scoring and self._cache.is_being_computed(sequence.key, sequence.tokens):
            return False
        if sequence.request.adapter is not None:
            sequence.slot = self._slots.acquire(sequence.request.adapter)
            if sequence.slot is None:
                if sequence.blocked_since_s is None:
                    sequence.blocked_since_s = self._clock()
                return False
        num_left = sequence.max_tokens - sequence.num_generated
        headroom = min(HEADROOM_TOKENS, num_left, self._max_seq_len - len(sequence.tokens))
        sequence.row = self._cache.open(
            sequence.key, sequence.tokens, headroom_tokens=headroom, reuse=not is_scoring
        )
        if sequence.row is None:
            self._release(sequence)
            return False
        sequence.blocked_since_s = None
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.row.num_computed
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make the sequence's row long enough, if need be at the cost of the youngest other sequence.

        False if the sequence itself had to give way.
        """
        assert sequence.row is not None
        while not self._cache.extend(sequence.row, sequence.row.num_computed + num_tokens):
            others = (s for s in reversed(self.running) if s is not sequence)
            victim = next((s for s in others if _is_childless(s)), sequence)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of its queue; what it has generated so far becomes part of its prompt."""
        self.running.remove(sequence)
        self._release(sequence)
        self._waiting.setdefault(sequence.key, deque()).appendleft(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            self._cache.close(sequence.row)
            sequence.row = None
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            sequence.slot = None

    def _is_overdue(self, sequence: Sequence) -> bool:
        since_s = sequence.blocked_since_s
        return since_s is not None and self._clock() - since_s > self._limits.drain_after_s


def _num_missing(sequence: Sequence) -> int:
    """Tokens that are known but not computed: 1 for a decoding sequence."""
    assert sequence.row is not None
    return len(sequence.tokens) - sequence.row.num_computed


def _is_childless(sequence: Sequence) -> bool:
    return sequence.row is not None and sequence.row.num_children == 0


def _work(sequence: Sequence, num_tokens: int) -> Work:
    row = sequence.row
    assert row is not None
    return Work(sequence, Chunk(row, row.num_computed, row.num_computed + num_tokens))


def _batch_order(work: Work) -> tuple[int, int, int]:
    slot = work.sequence.slot
    row = work.chunk.row
    return (-1 if slot is None else slot, id(row.root), row.prefix_len)
