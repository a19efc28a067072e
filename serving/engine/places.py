"""Who has a place in the batch: a row for keys and values, and a slot where an adapter is used.

Waiting sequences queue by adapter and project, and the queues take turns, those of projects with the
fewest running sequences in proportion to their weight first. A sequence whose adapter finds no free slot, or
whose prefix another one is computing just now, holds up its own queue only. A project below its share of the
places, for which there is none, gets one of a project above its share.

Who has waited long for a slot is waited for: whoever came later and needs a slot, too, is not admitted, unless
it is of a project that has fewer slots. So slots fall free, and nobody's cold adapter waits for ever behind
those that are always asked for.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from serving.engine.kv.cache import CacheKey, KvCache
from serving.engine.slots.lora import AdapterSlots

from .fair_turns import FairTurns
from .sequence import Sequence

log = logging.getLogger(__name__)

# Room that a new row gets for generated tokens before it has to grow.
HEADROOM_TOKENS = 128
# A sequence that gave way and lost what it had computed keeps its place for as many generated tokens, or as many
# as it lost if these are fewer, then for twice as many: so two projects whose contexts do not fit side by side both
# come to an end.
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
        self.turns.enter(sequence.project, sequence.weight)
        sequence.came_s = self._clock()
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
        num_projects = len(self.projects())
        awaited = self._awaited()
        # Nothing can be had for these any more, as far as places of others go; or slots of others.
        content: set[str] = set()
        without_slot: set[str] = set()
        has_admitted = True
        while has_admitted:
            has_admitted = False
            for key in self._by_need():
                project, head = key.salt, self._waiting[key][0]
                if self._is_full and (num_projects == 1 or project in content):
                    continue
                lacks_slot = self._lacks_slot(head)
                if lacks_slot and project in without_slot:
                    self._note_blocked(head)
                    continue
                if head.lora is not None and self._has_to_wait(head, awaited):
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
                    content.add(project)
                elif lacks_slot and head.blocked_since_s is not None:
                    without_slot.add(project)

    def _awaited(self) -> dict[str, float]:
        """By project: when the first of its sequences came that have waited too long for a slot."""
        awaited: dict[str, float] = {}
        for key, queue in self._waiting.items():
            if self._is_overdue(queue[0]):
                came_s = queue[0].came_s
                awaited[key.salt] = min(came_s, awaited.get(key.salt, came_s))
        return awaited

    def _has_to_wait(self, sequence: Sequence, awaited: Mapping[str, float]) -> bool:
        """Somebody who came before it waits for a slot, of a project that has no more of them than this one's."""
        if not awaited:
            return False
        num_slots = self._num_slots(sequence.project)
        return any(
            came_s < sequence.came_s and self._num_slots(project) <= num_slots
            for project, came_s in awaited.items()
        )

    def _num_slots(self, project: str) -> float:
        """That the project's sequences hold, in proportion to its weight."""
        slots = {s.slot for s in self.running if s.project == project and s.slot is not None}
        return len(slots) / self.turns.weight(project)

    @property
    def _is_full(self) -> bool:
        return len(self.running) >= self._max_running

    def _by_need(self) -> Iterable[CacheKey]:
        """The queues: those of projects with the fewest running sequences first, then the least served."""
        num_running = Counter(s.project for s in self.running)
        need = {
            project: (num_running[project] / self.turns.weight(project), self.turns.served(project))
            for project in {key.salt for key in self._waiting}
        }
        return sorted(self._waiting, key=lambda key: need[key.salt])

    def _start_at_cost(self, sequence: Sequence, num_projects: int) -> bool:
        """Start a sequence of a project below its share by taking places of projects above theirs."""
        if num_projects == 1 or self._is_waiting_for_prefix(sequence):
            return False
        while victims := self._victims(sequence):
            for victim in victims:
                self._preempt(victim)
            if self._start(sequence):
                return True
        return False

    def _victims(self, sequence: Sequence) -> list[Sequence]:
        """Those that have to give way to this one, if any have to: of the project furthest above its share."""
        running: dict[str, list[Sequence]] = {}
        for other in self.running:
            running.setdefault(other.project, []).append(other)
        mine = running.pop(sequence.project, [])
        if mine and self._share([*mine, sequence]) > 1:
            return []
        shares = {p: self._share(theirs) for p, theirs in running.items()}
        greediest = max(shares, key=lambda p: shares[p], default=None)
        if greediest is None or shares[greediest] <= 1:
            return []
        # Who came last has the least to lose.
        young = running[greediest][::-1]
        if sequence.lora is not None and not self._slots.has_room(sequence.lora):
            return self._victims_for_slot(young)
        # A row that others read must stay, and so must a sequence that no step has seen since it got its
        # place: it would come back, and nobody get on.
        fitting = (s for s in young if _is_childless(s) and _was_seen(s) and _may_go(s))
        return list(islice(fitting, 1))

    def _victims_for_slot(self, young: list[Sequence]) -> list[Sequence]:
        """All that use the slot which the fewest use, of those where some step has seen somebody."""
        users: dict[int, list[Sequence]] = {}
        for sequence in young:
            if sequence.slot is not None:
                users.setdefault(sequence.slot, []).append(sequence)
        fitting = (
            each
            for slot, each in users.items()
            if len(each) == self._slots.num_users(slot)
            and any(map(_was_seen, each))
            and all(map(_may_go, each))
        )
        return min(fitting, key=len, default=[])

    def _lacks_slot(self, sequence: Sequence) -> bool:
        """Its adapter is in none."""
        return sequence.lora is not None and self._slots.find(sequence.lora) is None

    def _share(self, sequences: list[Sequence]) -> float:
        """What a project's sequences hold of places, memory or slots, as a multiple of its share by weight."""
        used: float = max(
            len(sequences) / self._max_running,
            sum(len(s.tokens) for s in sequences) / self._cache.pool.num_tokens,
            len({s.slot for s in sequences if s.slot is not None}) / self._slots.num_slots,
        )
        return used * self.turns.total_weight / self.turns.weight(sequences[0].project)

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
                self._note_blocked(sequence)
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
        elif 2 * (num_lost := len(sequence.tokens) - sequence.row.num_computed) > len(
            sequence.tokens
        ):
            num_left_before = sequence.num_kept_tokens - sequence.num_generated
            num_more = max(min(KEPT_PLACE_TOKENS, num_lost), num_left_before)
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

    def _note_blocked(self, sequence: Sequence) -> None:
        if sequence.blocked_since_s is None:
            sequence.blocked_since_s = self._clock()

    def _is_overdue(self, sequence: Sequence) -> bool:
        since_s = sequence.blocked_since_s
        return since_s is not None and self._clock() - since_s > self._drain_after_s


def _is_childless(sequence: Sequence) -> bool:
    return sequence.row is not None and sequence.row.num_children == 0


def _was_seen(sequence: Sequence) -> bool:
    """A step has computed something of it since it got its place."""
    return sequence.last_turn > sequence.start_turn


def _may_go(sequence: Sequence) -> bool:
    return sequence.num_kept_tokens <= sequence.num_generated
