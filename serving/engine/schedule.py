"""Who computes what in the next step.

Decoding sequences come first, one token each; what is left of the step's token budget goes to prompts,
in order of admission, in chunks. So a long prompt delays the others' next token by a bounded time.

Where several projects have sequences, the one that was served least leads the step with all that it has,
and the others share a few tokens beside it: so a step that a short chat is part of stays about as short
as if it were alone. Alone, a project has the whole step, which is shorter for as long as others may come.

Waiting sequences queue by adapter and project, and the queues take turns, those of projects with the
fewest running sequences first. A sequence whose adapter finds no free slot, or whose prefix another one is
computing just now, holds up its own queue only. A project below its share of the places, for which there
is none, gets one of a project above its share.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serving.engine.kv.cache import CacheKey, KvCache
from serving.engine.slots.lora import AdapterSlots

from .attention import Chunk
from .fair_turns import DECODE_COST, FairTurns, fair_shares
from .sequence import Sequence
from .step_budget import StepBudget

log = logging.getLogger(__name__)

# Room that a new row gets for generated tokens before it has to grow.
HEADROOM_TOKENS = 128
# A sequence that gave way and lost what it had computed keeps its place for as many generated tokens, then
# for twice as many: so two projects whose contexts do not fit side by side both come to an end.
KEPT_PLACE_TOKENS = 64


@dataclass(frozen=True)
class Limits:
    """What one engine takes on."""

    max_running: int = 64
    """Sequences in one batch."""
    step_tokens: int = 256
    """Tokens computed in one step."""
    shared_tokens: int = 12
    """Of a step that one project leads, what all the others together get, a token each at least. A step of
    so many single tokens takes a processor about twice as long as a step of one."""
    shared_step_s: float = 0.1
    """So long a step of prompts should take at most where several projects come."""
    drain_after_s: float = 2.0
    """Once a sequence has waited this long for a slot, nobody who needs one is admitted before it."""

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
        self._turns = FairTurns()
        self._budget = StepBudget(limits.step_tokens, limits.shared_step_s, clock)
        self._num_turns = 0
        # Sequences that could not be given a place, for a reason of their own; the engine takes them out.
        self.unstartable: list[Sequence] = []

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
        self._turns.enter(sequence.project)
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
        self._turns.keep(self._projects())

    def plan(self) -> list[Work]:
        """The coming step: tokens sorted by slot, then by shared prefix, as attention and LoRA need."""
        self._admit()
        self._budget.see(self._projects())
        planned: list[tuple[Sequence, int]] = []
        for sequences, budget in self._budgets():
            for sequence in sequences:
                # An earlier turn of this loop may have preempted it.
                if sequence.row is None or not budget:
                    continue
                num_tokens = min(_num_missing(sequence), budget)
                if self._make_room(sequence, num_tokens):
                    planned.append((sequence, num_tokens))
                    budget -= num_tokens
        work = [_work(s, n) for s, n in planned if s.row is not None]
        for item in work:
            self._charge(item)
        return sorted(work, key=_batch_order)

    def note_step(self, num_tokens: int, took_s: float) -> None:
        """How long the step that was planned took, for the next one to be as long as it should."""
        self._budget.note(num_tokens, took_s)

    def _projects(self) -> set[str]:
        """Those with sequences."""
        return {s.project for s in self.running} | {key.salt for key in self._waiting}

    def _budgets(self) -> list[tuple[list[Sequence], int]]:
        """Each running project's sequences in order of urgency, and its tokens of the step."""
        by_project: dict[str, list[Sequence]] = {}
        for sequence in sorted(self.running, key=self._urgency):
            by_project.setdefault(sequence.project, []).append(sequence)
        if not by_project:
            return []
        wanted = {p: sum(map(_num_missing, sequences)) for p, sequences in by_project.items()}
        lead, *others = sorted(wanted, key=self._turns.served)
        demands = {p: wanted[p] for p in others}
        # Many projects with a chat each are no crowd beside a leader: each gets its token.
        shared_tokens = max(self._limits.shared_tokens, len(others))
        step_tokens = self._budget.tokens(len(self.running))
        shares = fair_shares(demands, min(shared_tokens, step_tokens - 1))
        rest = step_tokens - sum(shares.values())
        return [(by_project[p], share) for p, share in [(lead, rest), *shares.items()]]

    def _urgency(self, sequence: Sequence) -> tuple[bool, int]:
        """Single tokens first; of these, where not all find room, the one that waited longest."""
        is_prompt = _num_missing(sequence) > 1
        return is_prompt, 0 if is_prompt else sequence.last_turn

    def _charge(self, work: Work) -> None:
        self._num_turns += 1
        work.sequence.last_turn = self._num_turns
        num_tokens = work.chunk.end - work.chunk.start
        self._turns.charge(work.sequence.project, num_tokens if num_tokens > 1 else DECODE_COST)

    def _admit(self) -> None:
        is_draining = any(self._is_overdue(queue[0]) for queue in self._waiting.values())
        num_projects = len(self._projects())
        # Nothing can be had for these any more, as far as places of others go.
        content: set[str] = set()
        has_admitted = True
        while has_admitted:
            has_admitted = False
            for key in self._by_need():
                if self._is_full and (num_projects == 1 or key.salt in content):
                    continue
                head = self._waiting[key][0]
                is_held = is_draining and key.adapter_id is not None and not self._is_overdue(head)
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
        return len(self.running) >= self._limits.max_running

    def _by_need(self) -> Iterable[CacheKey]:
        """The queues: those of projects with the fewest running sequences first, then the least served."""
        num_running = Counter(s.project for s in self.running)
        return sorted(
            self._waiting, key=lambda key: (num_running[key.salt], self._turns.served(key.salt))
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
            len(sequences) / self._limits.max_running,
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
        is_scoring = sequence.is_scoring
        if self._is_full or self._is_waiting_for_prefix(sequence):
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
        elif 2 * sequence.row.num_computed < len(sequence.tokens):
            num_more = max(KEPT_PLACE_TOKENS, sequence.num_kept_tokens - sequence.num_generated)
            sequence.num_kept_tokens = sequence.num_generated + 2 * num_more
        sequence.start_turn = self._num_turns
        self.running.append(sequence)
        return True

    def _is_waiting_for_prefix(self, sequence: Sequence) -> bool:
        """Another sequence computes just now what this one can use."""
        return not sequence.is_scoring and self._cache.is_being_computed(
            sequence.key, sequence.tokens
        )

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

    def _release(self, sequence: Sequence, *, keep_row: bool = True) -> None:
        if sequence.row is not None:
            self._cache.close(sequence.row, keep=keep_row)
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
