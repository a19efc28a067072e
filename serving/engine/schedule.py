"""Who computes what in the next step.

Decoding sequences come first, one token each; what is left of the step's token budget goes to prompts,
in order of admission, in chunks. So a long prompt delays the others' next token by a bounded time.

Where several projects have sequences, the one that was served least leads the step with all that it has,
and the others share a few tokens beside it: so a step that a short chat is part of stays about as short
as if it were alone. Alone, a project has the whole step, which is shorter for as long as others may come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.engine.kv.cache import KvCache
from serving.engine.slots.lora import AdapterSlots

from .attention import Chunk
from .fair_turns import DECODE_COST, fair_shares
from .limits import Limits
from .places import Places
from .sequence import Sequence
from .step_budget import StepBudget


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
        budget: StepBudget | None = None,
    ) -> None:
        self.places = Places(
            cache,
            slots,
            max_running=limits.max_running,
            drain_after_s=limits.drain_after_s,
            max_seq_len=max_seq_len,
            clock=clock,
        )
        self._turns = self.places.turns
        self._limits = limits
        self.budget = budget or StepBudget(limits.step_tokens, limits.shared_step_s, clock)

    def plan(self) -> list[Work]:
        """The coming step: tokens sorted by slot, then by shared prefix, as attention and LoRA need."""
        self.places.admit()
        self.budget.see(self.places.projects())
        planned: list[tuple[Sequence, int]] = []
        for sequences, budget in self._budgets():
            for sequence in sequences:
                # An earlier turn of this loop may have preempted it.
                if sequence.row is None or not budget:
                    continue
                num_tokens = min(_num_missing(sequence), budget)
                if self.places.make_room(sequence, num_tokens):
                    planned.append((sequence, num_tokens))
                    budget -= num_tokens
        work = [_work(s, n) for s, n in planned if s.row is not None]
        for item in work:
            self._charge(item)
        return sorted(work, key=_batch_order)

    def note_step(self, num_tokens: int, took_s: float) -> None:
        """How long the step that was planned took, for the next one to be as long as it should."""
        self.budget.note(num_tokens, took_s)

    def _budgets(self) -> list[tuple[list[Sequence], int]]:
        """Each running project's sequences in order of urgency, and its tokens of the step."""
        by_project: dict[str, list[Sequence]] = {}
        for sequence in sorted(self.places.running, key=self._urgency):
            by_project.setdefault(sequence.project, []).append(sequence)
        if not by_project:
            return []
        wanted = {p: sum(map(_num_missing, sequences)) for p, sequences in by_project.items()}
        lead, *others = sorted(wanted, key=self._turns.served)
        demands = {p: wanted[p] for p in others}
        # Many projects with a chat each are no crowd beside a leader: each gets its token.
        shared_tokens = max(self._limits.shared_tokens, len(others))
        step_tokens = self.budget.tokens(len(self.places.running))
        weights = {p: self._turns.weight(p) for p in others}
        shares = fair_shares(demands, min(shared_tokens, step_tokens - 1), weights)
        rest = step_tokens - sum(shares.values())
        return [(by_project[p], share) for p, share in [(lead, rest), *shares.items()]]

    def _urgency(self, sequence: Sequence) -> tuple[bool, int]:
        """Single tokens first; of these, where not all find room, the one that waited longest."""
        is_prompt = _num_missing(sequence) > 1
        return is_prompt, 0 if is_prompt else sequence.last_turn

    def _charge(self, work: Work) -> None:
        num_tokens = work.chunk.end - work.chunk.start
        work.sequence.last_turn = self._turns.charge(
            work.sequence.project, num_tokens if num_tokens > 1 else DECODE_COST
        )


def _num_missing(sequence: Sequence) -> int:
    """Tokens that are known but not computed: 1 for a decoding sequence."""
    assert sequence.row is not None
    return len(sequence.tokens) - sequence.row.num_computed


def _work(sequence: Sequence, num_tokens: int) -> Work:
    row = sequence.row
    assert row is not None
    return Work(sequence, Chunk(row, row.num_computed, row.num_computed + num_tokens))


def _batch_order(work: Work) -> tuple[int, int, int]:
    slot = work.sequence.slot
    row = work.chunk.row
    return (-1 if slot is None else slot, id(row.root), row.prefix_len)
