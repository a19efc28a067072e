"""Who has a place in the batch: a row for keys and values, and a slot where an adapter is used.

Waiting sequences queue by adapter and project, and the queues take turns, those of projects with the
fewest running sequences first. A sequence whose adapter finds no free slot, or whose prefix another one is
computing just now, holds up its own queue only. A project below its share of the places, for which there
is none, gets one of a project above its share.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable

from serving.engine.kv.cache import CacheKey, KvCache
from serving.engine.slots.lora import AdapterSlots

from .fair_turns import FairTurns
from .sequence import Sequence

log = logging.getLogger(__name__)

# Room that a new row gets for generated tokens before it has to grow.
HEADROOM_TOKENS = 128
# A sequence that gave way and lost what it had computed keeps its place for as many generated tokens, then
# for twice as many: so two projects whose contexts do not fit side by side both come to an end.
KEPT_PLACE_TOKENS = 64


class Places:
    """The sequences that run, and those that wait for a place."""

    def __init__(
        self,
        cache: KvCache,
        slots: AdapterSlots,
        *,
        max_running: int,
        drain_after_s: float,
        max_seq_len: int,
        clock: Callable[[], float],
    ) -> None:
        self.running: list[Sequence] = []
        self.turns = FairTurns()
        # Sequences that could not be given a place, for a reason of their own; the engine takes them out.
        self.unstartable: list[Sequence] = []
        self._waiting: dict[CacheKey, deque[Sequence]] = {}
        self._cache = cache
        self._slots = slots
        self._max_running = max_running
        self._drain_after_s = drain_after_s
        self._max_seq_len = max_seq_len
        self._clock = clock

    @property
    def num_waiting(self) -> int:
        # A copy first: other threads ask, too.
        return sum(map(len, list(self._waiting.values())))

    @property
    def has_sequences(self) -> bool:
        return bool(self.running or self._waiting)

    def all_sequences(self) -> list[Sequence]:
        return [*self.running, *(s for queue in self._waiting.values() for s in queue)]

    def add(self, sequence: Sequence) -> None:
        self.turns.enter(sequence.project)
        self._waiting.setdefault(sequence.key, deque()).append(sequence)

    def remove(self, sequence: Sequence, *, is_broken: bool = False) -> None:
        """Take out a sequence that is done or no longer wanted; what it held becomes free.

        What a broken one has computed is of no use to others.
        """
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence, keep_row=not is_broken)
        elif sequence in (queue := self._waiting.get(sequence.key, deque())):
            queue.remove(sequence)
            if not queue:
                del self._waiting[sequence.key]
        self.turns.keep(self.projects())

    def projects(self) -> set[str]:
        """Those with sequences."""
        return {s.project for s in self.running} | {key.salt for key in self._waiting}

    def admit(self) -> None:
        """Give places to those who wait, as far as there are any."""
        is_draining = any(self._is_overdue(queue[0]) for queue in self._waiting.values())
        num_projects = len(self.projects())
        # Nothing can be had for these any more, as far as places of others go.
        content: set[str] = set()
        has_admitted = True
        while has_admitted:
            has_admitted = False
            for key in self._by_need():
                if self._is_full and (num_projects == 1 or key.salt in content):
                    continue
                head = self._waiting[key][0]
                is_held = is_draining and head.lora is not None and not self._is_overdue(head)
                if is_held:
                    continue
                try:
                    has_started = self._start(head) or self._start_at_cost(head, num_projects)
                except Exception:
                    log.exception("a sequence cannot be given a place")
                    self._release(head)
                    self.unstartable.append(head)
                    self._advance(key)
                    continue
                if has_started:
                    self._advance(key)
                    has_admitted = True
                elif self._is_full:
                    content.add(key.salt)

    @property
    def _is_full(self) -> bool:
        return len(self.running) >= self._max_running

    def _by_need(self) -> Iterable[CacheKey]:
        """The queues: those of projects with the fewest running sequences first, then the least served."""
        num_running = Counter(s.project for s in self.running)
        return sorted(
            self._waiting, key=lambda key: (num_running[key.salt], self.turns.served(key.salt))
        )

    def _start_at_cost(self, sequence: Sequence, num_projects: int) -> bool:
        """Start a sequence of a project below its share by taking places of projects above theirs."""
        if num_projects == 1 or self._is_waiting_for_prefix(sequence):
            return False
        while victim := self._victim(sequence, num_projects):
            self._preempt(victim)
            if self._start(sequence):
                return True
        return False

    def _victim(self, sequence: Sequence, num_projects: int) -> Sequence | None:
        """The youngest sequence that has to give way to this one, if any has to."""
        running: dict[str, list[Sequence]] = {}
        for other in self.running:
            running.setdefault(other.project, []).append(other)
        mine = running.pop(sequence.project, [])
        if mine and self._share([*mine, sequence], num_projects) > 1:
            return None
        shares = {p: self._share(theirs, num_projects) for p, theirs in running.items()}
        greediest = max(shares, key=lambda p: shares[p], default=None)
        if greediest is None or shares[greediest] <= 1:
            return None
        # Who came last has the least to lose. A row that others read must stay, and so must a sequence
        # that no step has seen since it got its place: it would come back, and nobody get on.
        young = (s for s in reversed(running[greediest]) if _is_childless(s))
        return next(
            (
                s
                for s in young
                if s.last_turn > s.start_turn and s.num_kept_tokens <= s.num_generated
            ),
            None,
        )

    def _share(self, sequences: list[Sequence], num_projects: int) -> float:
        """What a project's sequences hold of places, memory or slots, as a multiple of an equal share."""
        used: float = max(
            len(sequences) / self._max_running,
            sum(len(s.tokens) for s in sequences) / self._cache.pool.num_tokens,
            len({s.slot for s in sequences if s.slot is not None}) / self._slots.num_slots,
        )
        return used * num_projects

    def _advance(self, key: CacheKey) -> None:
        """Take the head off a queue and put the queue behind the others."""
        queue = self._waiting.pop(key)
        queue.popleft()
        if queue:
            self._waiting[key] = queue

    def _start(self, sequence: Sequence) -> bool:
        """Give the sequence a slot and a row. False if it has to wait, holding neither."""
        if self._is_full or self._is_waiting_for_prefix(sequence):
            return False
        if sequence.lora is not None:
            sequence.slot = self._slots.acquire(sequence.lora)
            if sequence.slot is None:
                if sequence.blocked_since_s is None:
                    sequence.blocked_since_s = self._clock()
                return False
        num_left = sequence.max_tokens - sequence.num_generated
        headroom = min(HEADROOM_TOKENS, num_left, self._max_seq_len - len(sequence.tokens))
        sequence.row = self._cache.open(
            sequence.key,
            sequence.tokens,
            headroom_tokens=headroom,
            max_reused=sequence.num_reusable_tokens,
            prefix=sequence.prefix,
        )
        if sequence.row is None:
            self._release(sequence)
            return False
        sequence.blocked_since_s = None
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.row.num_computed
        elif 2 * sequence.row.num_computed < len(sequence.tokens):
            num_more = max(KEPT_PLACE_TOKENS, sequence.num_kept_tokens - sequence.num_generated)
            sequence.num_kept_tokens = sequence.num_generated + 2 * num_more
        sequence.start_turn = self.turns.num_taken
        self.running.append(sequence)
        return True

    def _is_waiting_for_prefix(self, sequence: Sequence) -> bool:
        """Another sequence computes just now what this one can use."""
        # One token more, for what is computed already never goes to the end.
        tokens = sequence.tokens[: sequence.num_reusable_tokens + 1]
        return self._cache.is_being_computed(sequence.key, tokens, prefix=sequence.prefix)

    def make_room(self, sequence: Sequence, num_tokens: int) -> bool:
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

    def _release(self, sequence: Sequence, *, keep_row: bool = True) -> None:
        if sequence.row is not None:
            self._cache.close(sequence.row, keep=keep_row)
            sequence.row = None
        if sequence.slot is not None:
            self._slots.release(sequence.slot)
            sequence.slot = None

    def _is_overdue(self, sequence: Sequence) -> bool:
        since_s = sequence.blocked_since_s
        return since_s is not None and self._clock() - since_s > self._drain_after_s


def _is_childless(sequence: Sequence) -> bool:
    return sequence.row is not None and sequence.row.num_children == 0
