"""The engine: one thread that runs the model step by step, and the bridge to asyncio.

Requests come in through `Engine.generate`, a plain async iterator; closing it cancels the request. The
thread sends what a step produced to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedModel

from foundation.errors import InvalidRequest, LuthierError
from serving.admission import Admission
from serving.engine.kv.cache import KvCache
from serving.engine.kv.pool import KvPool
from serving.engine.slots.lora import AdapterSlots
from serving.engine.slots.slot_linear import Run
from text.tokenizer import Tokenizer

from .attention import AttentionStep, max_attended_tokens
from .failures import ContextLengthExceeded, EngineStopped, NotFinite
from .sampling import TokenLogprob, are_finite, sample, token_logprobs
from .schedule import Limits, Scheduler, Work
from .sequence import Delta, Generate, Sequence, Usage

log = logging.getLogger(__name__)

# Steps one after the other in which everything fails: the model itself, not one request, must be broken.
MAX_FAILURES = 5
_FAILED = "The inference engine failed at this request. Please try again."


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
    """Generates for one base model and any number of its adapters."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        num_slots: int,
        kv_bytes: int,
        max_seq_len: int,
        limits: Limits | None = None,
    ) -> None:
        """Takes over `model`, whose linear layers are replaced. Raises `UnsupportedModel`."""
        self._model = model
        self._tokenizer = tokenizer
        self._pool = KvPool(
            model.config, size_bytes=kv_bytes, dtype=model.dtype, device=model.device
        )
        self.max_seq_len = min(
            max_seq_len, max_attended_tokens(model.config), self._pool.num_tokens
        )
        self._slots = AdapterSlots(model, num_slots)
        self._cache = KvCache(self._pool)
        limits = limits or Limits()
        self._admission = Admission(limits)
        self._scheduler = Scheduler(self._cache, self._slots, limits, max_seq_len=self.max_seq_len)
        self.vocab_size: int = model.config.vocab_size
        self._inbox: deque[Callable[[], None]] = deque()
        self._has_news = threading.Condition()
        self._is_closing = False
        self._has_stopped = False
        self._failure: Exception | None = None
        self._outbox: list[tuple[asyncio.Queue[Delta | Exception], Delta | Exception]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._num_steps = 0
        self._num_failures = 0
        self._num_computed_tokens = 0

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing and not self._has_stopped

    def start(self) -> None:
        """Start the thread; deltas are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Stop after the step in progress; requests still open fail with `EngineStopped`."""
        self._is_closing = True
        self._post(lambda: None, even_if_stopped=True)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)

    def check_room(self, project: str, num_sequences: int) -> None:
        """Whether so many more sequences of the project can be taken.

        Raises `InvalidRequest` for more than one request may ask for, `Overloaded` and `EngineStopped`.
        """
        if self._has_stopped or self._is_closing:
            raise self._stopped()
        self._admission.check(project, num_sequences)

    def check(self, request: Generate) -> int:
        """How many tokens the request may generate.

        Raises `InvalidRequest` or `ContextLengthExceeded` for a request that cannot be taken.
        """
        prompt = request.prompt
        if not prompt or min(prompt) < 0 or max(prompt) >= self.vocab_size:
            raise InvalidRequest(
                f"Invalid 'prompt': token ids must lie between 0 and {self.vocab_size - 1}, "
                "and there must be at least one.",
                param="prompt",
            )
        num_left = self.max_seq_len - len(prompt)
        max_tokens = num_left if request.max_tokens is None else request.max_tokens
        if max_tokens > num_left or num_left <= 0:
            raise ContextLengthExceeded(len(prompt), request.max_tokens, self.max_seq_len)
        return max_tokens

    async def generate(self, request: Generate) -> AsyncIterator[Delta]:
        """The choice's deltas as they come; the last one has a `finish_reason`.

        The caller has asked `check_room` once for all choices of the request: asked again for each, it could
        refuse a request in the middle of its reply.

        Raises what `check` raises, `NotFinite`, and `EngineStopped` if the engine ends before the choice does.
        """
        project = request.cache_salt
        max_tokens = self.check(request)
        if max_tokens == 0 and request.num_prompt_logprobs is None:
            yield Delta(finish_reason="length", usage=Usage(len(request.prompt), 0, 0))
            return
        queue: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        sequence = Sequence(
            request, max_tokens, self._tokenizer, lambda news: self._outbox.append((queue, news))
        )
        self._post(lambda: self._scheduler.add(sequence))
        self._admission.enter(project)
        try:
            while True:
                news = await queue.get()
                if isinstance(news, Exception):
                    raise news
                yield news
                if news.finish_reason is not None:
                    return
        finally:
            self._admission.leave(project)
            # Harmless if the sequence is done.
            self._post(lambda: self._scheduler.remove(sequence), even_if_stopped=True)

    async def unload(self, adapter_id: str) -> bool:
        """Forget an adapter's slot and prefixes. False if requests still use it."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def forget() -> None:
            self._cache.forget(adapter_id)
            result = self._slots.unload(adapter_id)
            assert self._loop is not None
            self._loop.call_soon_threadsafe(done.set_result, result)

        self._post(forget)
        return await done

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            num_kv_tokens_used=self._pool.num_used_tokens,
            num_kv_tokens=self._pool.num_tokens,
            num_steps=self._num_steps,
            num_computed_tokens=self._num_computed_tokens,
            loaded_adapter_ids=tuple(self._slots.loaded_ids),
        )

    def _post(self, command: Callable[[], None], *, even_if_stopped: bool = False) -> None:
        """Have the thread run `command` between two steps."""
        with self._has_news:
            if not self._has_stopped:
                self._inbox.append(command)
                self._has_news.notify()
            elif not even_if_stopped:
                raise self._stopped()

    # What follows runs on the engine's thread.

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._take_commands():
                    self._try_step()
                    self._flush()
        except Exception as error:
            log.exception("the engine failed; all its requests fail with it")
            self._failure = error
        finally:
            self._fail_all()

    def _take_commands(self) -> bool:
        """Run what was posted; sleep while there is nothing to do. False once closed."""
        with self._has_news:
            while not self._inbox and not self._scheduler.all_sequences():
                self._has_news.wait()
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            command()
        return not self._is_closing

    def _try_step(self) -> None:
        """One step. If it fails, each of its sequences is tried alone, so that one cannot harm another."""
        work = self._scheduler.plan()
        for sequence in self._scheduler.unstartable:
            sequence.deliver(LuthierError(_FAILED))
        self._scheduler.unstartable.clear()
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
            self._fail(item.sequence, LuthierError(_FAILED))
            return False
        return True

    def _fail(self, sequence: Sequence, error: LuthierError) -> None:
        """End a sequence whose computation went wrong; nothing of what it computed is used again."""
        if sequence.row is not None:
            sequence.deliver(error)
            self._scheduler.remove(sequence, is_broken=True)

    def _step(self, work: list[Work]) -> None:
        began_s = time.perf_counter()
        logits = self._forward(work)  # (sum of wanted, V)
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
            if not all(are_sound[begin:end]):
                log.error("a model's output is not finite: %s", item.sequence.key.adapter_id)
                self._fail(item.sequence, NotFinite())
            elif self._has_scored(item, logits[begin:end]) and self._is_drawing(item):
                last_rows.append((item, end - 1))
            begin = end
        if not last_rows:
            return
        drawn = [item for item, _ in last_rows]
        rows = logits[[row for _, row in last_rows]]
        samples = sample(rows, [item.sequence.draw() for item in drawn])
        for item, (token_id, logprob) in zip(drawn, samples, strict=True):
            self._accept(item.sequence, token_id, logprob)

    def _has_scored(self, item: Work, logits: Tensor) -> bool:
        """Score the prompt where that is asked for. False if that failed, and the sequence with it."""
        if not item.sequence.is_scoring:
            return True
        try:
            self._score(item, logits)
        except Exception:
            log.exception("a sequence could not be scored")
            self._fail(item.sequence, LuthierError(_FAILED))
            return False
        return True

    def _accept(self, sequence: Sequence, token_id: int, logprob: TokenLogprob | None) -> None:
        try:
            is_done = sequence.accept(token_id, logprob)
        except Exception:
            # A token that cannot be turned into text is this request's trouble alone.
            log.exception("a sequence failed")
            self._fail(sequence, LuthierError(_FAILED))
            return
        if is_done:
            self._scheduler.remove(sequence)

    def _forward(self, work: list[Work]) -> Tensor:
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for item in work:
            ids += item.sequence.tokens[item.chunk.start : item.chunk.end]
            positions += range(item.chunk.start, item.chunk.end)
            wanted += range(len(ids) - _num_logits(item), len(ids))
        by_slot = groupby(work, lambda item: item.sequence.slot)
        runs = [
            Run(slot, sum(item.chunk.end - item.chunk.start for item in items))
            for slot, items in by_slot
        ]
        self._slots.set_runs(runs)
        device = self._model.device
        out = self._model(
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
        sequence, start = item.sequence, item.chunk.start
        num_top = sequence.request.num_prompt_logprobs or 0
        targets = sequence.tokens[start + 1 : min(item.chunk.end + 1, sequence.num_prompt_tokens)]
        if targets:
            entries = token_logprobs(logits[: len(targets)], targets, [num_top] * len(targets))
            sequence.prompt_logprobs[start + 1 :] = entries

    def _is_drawing(self, item: Work) -> bool:
        """Whether a token is to be drawn from the chunk's last logits. Ends what is done already."""
        sequence = item.sequence
        if not item.is_last:
            return False
        if sequence.num_generated == 0 and sequence.accept_prompt():
            self._scheduler.remove(sequence)
            return False
        return True

    def _flush(self) -> None:
        """Deliver what the step produced, in one call into the event loop."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, []

        def deliver() -> None:
            for queue, news in outbox:
                queue.put_nowait(news)

        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(deliver)

    def _fail_all(self) -> None:
        with self._has_news:
            self._has_stopped = True
            # Requests that were posted while the last step ran.
            commands = list(self._inbox)
            self._inbox.clear()
        for command in commands:
            command()
        for sequence in self._scheduler.all_sequences():
            sequence.deliver(self._stopped())
        self._flush()

    def _stopped(self) -> EngineStopped:
        if self._failure is None:
            return EngineStopped("The inference engine is shutting down.")
        return EngineStopped("The inference engine failed and is being restarted.", status=500)


def _num_logits(item: Work) -> int:
    """How many of the chunk's last positions need logits."""
    if item.sequence.is_scoring:
        return item.chunk.end - item.chunk.start
    return 1 if item.is_last else 0
