"""The engine: sequences of token ids in, generated tokens out, one step of the model after the other.

It computes when it is told to and waits for nobody: whoever drives it submits sequences and calls `step`
for as long as there is something to do. What a step produced is delivered before it returns.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from serving.engine.kv.cache import KvCache
from serving.engine.kv.pool import KvPool
from serving.engine.kv.prefix import KvPrefix
from serving.engine.slots.lora import AdapterSlots
from serving.engine.slots.slot_linear import SlotRun
from text.tokenizer import Tokenizer

from . import blocks
from .attention import AttentionStep, max_attended_tokens
from .failures import (
    ConstraintFailed,
    ContextLengthExceeded,
    EngineError,
    InvalidPrompt,
    ModelGone,
    NotFinite,
    SequenceFailed,
)
from .heads import Head, HeadedOutput
from .limits import Limits
from .sampling import TokenLogprob, are_finite, sample, token_logprobs
from .schedule import Scheduler, Work
from .sequence import Delta, Generate, News, Pool, Sequence

log = logging.getLogger(__name__)

# Steps one after the other in which everything fails: the model itself, not one request, must be broken.
MAX_FAILURES = 5


@dataclass(frozen=True)
class EngineStats:
    num_running: int
    num_waiting: int
    num_kv_tokens_used: int
    num_kv_tokens: int
    num_steps: int
    num_computed_tokens: int
    """Prompt and generated tokens that went through the model."""
    loaded_adapter_ids: tuple[str, ...]


class Engine:
    """Generates for one base model and any number of its adapters.

    One thread at a time drives it; `prepare` and `stats` may be called on any.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        num_slots: int,
        kv_bytes: int,
        max_seq_len: int,
        slot_bytes: int | None = None,
        limits: Limits | None = None,
        beside: Engine | None = None,
    ) -> None:
        """Takes over `model`, whose linear layers are replaced. Raises `UnsupportedModel`.

        What takes turns with an engine of a model of the same size knows with it how long steps should be.
        """
        self.model = model
        self._tokenizer = tokenizer
        self._pool = KvPool(
            model.config, size_bytes=kv_bytes, dtype=model.dtype, device=model.device
        )
        self.max_seq_len = min(
            max_seq_len, max_attended_tokens(model.config), self._pool.num_tokens
        )
        self.slots = AdapterSlots(model, num_slots, budget_bytes=slot_bytes)
        blocks.put_in(model)
        self._output = HeadedOutput.put_into(model)
        self._cache = KvCache(self._pool)
        self._scheduler: Scheduler = Scheduler(
            self._cache,
            self.slots,
            limits or Limits(),
            max_seq_len=self.max_seq_len,
            budget=beside._scheduler.budget if beside is not None else None,
        )
        self._places = self._scheduler.places
        self.vocab_size: int = model.config.vocab_size
        self._num_steps = 0
        self._num_failures = 0
        self._num_computed_tokens = 0

    def generate(self, request: Generate | Pool) -> Iterator[Delta]:
        """The choice's deltas, computed while they are asked for; the last one has a `finish_reason`.

        What else was submitted is computed beside it. Raises an `EngineError` where there is no such end.
        """
        news: deque[News] = deque()
        sequence = self.prepare(request, news.append)
        self.submit(sequence)
        try:
            while True:
                while not news:
                    self.step()
                one = news.popleft()
                if isinstance(one, EngineError):
                    raise one
                yield one
                if one.finish_reason is not None:
                    return
        finally:
            self.cancel(sequence)

    def prepare(self, request: Generate | Pool, deliver: Callable[[News], None]) -> Sequence:
        """The request as a sequence to be submitted. `deliver` is called for each piece of news while a step
        is computed; the last piece is a delta with a `finish_reason`, or an error.

        Raises `InvalidPrompt` or `ContextLengthExceeded` for a request that cannot be taken.
        """
        head = request.head if isinstance(request, Pool) else None
        if isinstance(request, Pool):
            request = request.reading
        prompt = request.prompt
        if not prompt or min(prompt) < 0 or max(prompt) >= self.vocab_size:
            raise InvalidPrompt(self.vocab_size)
        max_seq_len = self.max_seq_len
        if isinstance(request.adapter, KvPrefix):
            max_seq_len -= request.adapter.num_tokens
        num_left = max_seq_len - len(prompt)
        max_tokens = num_left if request.max_tokens is None else request.max_tokens
        if max_tokens > num_left or num_left <= 0:
            raise ContextLengthExceeded(len(prompt), request.max_tokens, max_seq_len)
        return Sequence(request, max_tokens, self._tokenizer, deliver, head)

    def submit(self, sequence: Sequence) -> None:
        """Have the coming steps compute a prepared sequence."""
        if sequence.is_done_at_once:
            sequence.accept_prompt()
        else:
            self._places.add(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Compute no more of a sequence; harmless if it is done."""
        self._places.remove(sequence)

    @property
    def is_idle(self) -> bool:
        """Nothing that was submitted is left to compute."""
        return not self._places.has_sequences

    def fail_all(self, error: EngineError) -> None:
        """Deliver `error` to all sequences, because no more steps will come."""
        for sequence in self._places.all_sequences():
            sequence.deliver(error)

    @torch.inference_mode()
    def unload(self, adapter_id: str) -> None:
        """An adapter was deleted: its sequences end, and nothing of it is kept."""
        self.end(ModelGone(), adapter_id)
        self._cache.forget(adapter_id)
        self.slots.unload(adapter_id)

    def end(self, error: EngineError, adapter_id: str | None = None) -> None:
        """End all sequences, or those of one adapter, before they are done."""
        for sequence in self._places.all_sequences():
            if adapter_id is None or sequence.key.adapter_id == adapter_id:
                sequence.deliver(error)
                self._places.remove(sequence, is_broken=True)

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self._places.running),
            num_waiting=self._places.num_waiting,
            num_kv_tokens_used=self._pool.num_used_tokens,
            num_kv_tokens=self._pool.num_tokens,
            num_steps=self._num_steps,
            num_computed_tokens=self._num_computed_tokens,
            loaded_adapter_ids=tuple(self.slots.loaded_ids),
        )

    @torch.inference_mode()
    def step(self) -> None:
        """Compute one step. If it fails, each of its sequences is tried alone, so that one cannot harm another.

        Raises `RuntimeError` when everything fails, step after step.
        """
        work = self._scheduler.plan()
        for sequence in self._places.unstartable:
            sequence.deliver(SequenceFailed())
        self._places.unstartable.clear()
        if not work:
            return
        try:
            self._step(work)
            self._num_failures = 0
        except Exception as error:
            log.exception("a step of %d sequences failed", len(work))
            num_computed = sum(map(self._try_alone, work))
            if num_computed:
                self._num_failures = 0
                return
            self._num_failures += 1
            if self._num_failures >= MAX_FAILURES:
                raise RuntimeError("everything failed, step after step") from error

    def _try_alone(self, item: Work) -> bool:
        """Whether the item could be computed, now or before the step failed."""
        row = item.chunk.row
        is_undone = item.is_last or row.num_computed == item.chunk.start
        if item.sequence.row is not row or not is_undone:
            return True
        row.num_computed = item.chunk.start
        try:
            self._step([item])
        except Exception:
            log.exception("a sequence failed")
            self._fail(item.sequence, SequenceFailed())
            return False
        return True

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        """End a sequence whose computation went wrong; nothing of what it computed is used again."""
        if sequence.row is not None:
            sequence.deliver(error)
            self._places.remove(sequence, is_broken=True)

    def _step(self, work: list[Work]) -> None:
        began_s = time.perf_counter()
        logits = self._forward(work)  # (sum of those that need them, V)
        pooled = iter(self._output.read())
        # Meanwhile a GPU computes.
        masks = _masks(work)
        are_sound = are_finite(logits)  # Waits for a GPU, too.
        num_tokens = sum(w.chunk.end - w.chunk.start for w in work)
        self._scheduler.note_step(num_tokens, time.perf_counter() - began_s)
        self._num_steps += 1
        self._num_computed_tokens += num_tokens
        last_rows: list[tuple[Work, int]] = []
        begin = 0
        for item in work:
            end = begin + _num_logits(item)
            item.chunk.row.num_computed = item.chunk.end
            if item.sequence.head is not None and item.is_last:
                self._end_pooled(item, next(pooled))
            elif not all(are_sound[begin:end]):
                log.error("a model's output is not finite: %s", item.sequence.key.adapter_id)
                self._fail(item.sequence, NotFinite())
            elif self._has_scored(item, logits[begin:end]) and self._is_drawing(item):
                last_rows.append((item, end - 1))
            begin = end
        if not last_rows:
            return
        drawn = [item.sequence for item, _ in last_rows]
        rows = logits[[row for _, row in last_rows]]
        samples = sample(rows, [sequence.draw(masks.get(id(sequence))) for sequence in drawn])
        for sequence, (token_id, logprob) in zip(drawn, samples, strict=True):
            self._accept(sequence, token_id, logprob)

    def _end_pooled(self, item: Work, values: list[float]) -> None:
        """End a sequence with what its head says."""
        sequence = item.sequence
        if not all(map(math.isfinite, values)):
            log.error("a head's output is not finite: %s", sequence.key.adapter_id)
            self._fail(sequence, NotFinite())
            return
        sequence.deliver(Delta(pooled=values))
        sequence.accept_prompt()
        self._places.remove(sequence)

    def _has_scored(self, item: Work, logits: Tensor) -> bool:
        """Score the prompt where that is asked for. False if that failed, and the sequence with it."""
        if not item.sequence.is_scoring:
            return True
        try:
            self._score(item, logits)
        except Exception:
            log.exception("a sequence could not be scored")
            self._fail(item.sequence, SequenceFailed())
            return False
        return True

    def _accept(self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None) -> None:
        try:
            is_done = sequence.accept(token_id, logprob)
        except ConstraintFailed as error:
            self._fail(sequence, error)
            return
        except Exception:
            # A token that cannot be turned into text is this request's trouble alone.
            log.exception("a sequence failed")
            self._fail(sequence, SequenceFailed())
            return
        if is_done:
            self._places.remove(sequence)

    def _forward(self, work: list[Work]) -> Tensor:
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        heads: list[Head | None] = []
        for item in work:
            ids += item.sequence.tokens[item.chunk.start : item.chunk.end]
            positions += range(item.chunk.start, item.chunk.end)
            num_wanted = _num_wanted(item)
            wanted += range(len(ids) - num_wanted, len(ids))
            heads += [item.sequence.head] * num_wanted
        self._output.expect(heads)
        by_slot = groupby(work, lambda item: item.sequence.slot)
        runs = [
            SlotRun(slot, sum(item.chunk.end - item.chunk.start for item in items))
            for slot, items in by_slot
        ]
        self.slots.set_runs(runs)
        device = self.model.device
        out = self.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.long, device=device),
            step=AttentionStep(self._pool, [item.chunk for item in work]),
        )
        logits: Tensor = out.logits[0]
        return logits

    def _score(self, item: Work, logits: Tensor) -> None:
        """Log-probabilities of the prompt's tokens that the chunk's logits (n, V) predict."""
        sequence, start = item.sequence, item.chunk.end - len(logits)
        num_top = sequence.request.num_prompt_logprobs or 0
        targets = sequence.tokens[start + 1 : min(item.chunk.end + 1, sequence.num_prompt_tokens)]
        if targets:
            entries = token_logprobs(logits[: len(targets)], targets, [num_top] * len(targets))
            sequence.prompt_logprobs[start + 1 - sequence.num_virtual_tokens :] = entries

    def _is_drawing(self, item: Work) -> bool:
        """Whether a token is to be drawn from the chunk's last logits. Ends what is done already."""
        sequence = item.sequence
        if not item.is_last:
            return False
        if sequence.num_generated == 0 and sequence.accept_prompt():
            self._places.remove(sequence)
            return False
        if sequence.matcher is not None and (failure := sequence.matcher.failure):
            self._fail(sequence, failure)
            return False
        return True


def _masks(work: list[Work]) -> dict[int, Tensor]:
    """By identity of the sequence: what its grammar allows as the next token, where one is to be drawn."""
    return {
        id(item.sequence): item.sequence.matcher.mask()
        for item in work
        if item.is_last and item.sequence.matcher is not None
    }


def _num_logits(item: Work) -> int:
    """How many of the chunk's last positions need logits."""
    return 0 if item.sequence.head is not None else _num_wanted(item)


def _num_wanted(item: Work) -> int:
    """How many of the chunk's last positions are read by the output layer or a head."""
    sequence = item.sequence
    if sequence.is_scoring:
        return max(item.chunk.end - max(item.chunk.start, sequence.first_scored - 1), 0)
    return 1 if item.is_last else 0
