"""The thread that drives the engine, and the bridge from it to asyncio.

Requests come in through `EngineThread.generate`, a plain async iterator; closing it cancels them. The
thread sends what a step produced to the event loop in one call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial

from .admission import Admission
from .engine.engine import Engine
from .engine.failures import EngineError, EngineStopped
from .engine.sequence import Delta, Generate, News, Pool, Sequence
from .engine_turns import EngineTurns
from .quotas import Quotas

log = logging.getLogger(__name__)

_Queue = asyncio.Queue[tuple[int, News]]


class EngineThread:
    """Used on the event loop, where it is not said otherwise."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission | None = None,
        turns: EngineTurns | None = None,
    ) -> None:
        """Threads of several engines have an admission in common, and take turns."""
        self.engine = engine
        self.admission = admission or Admission(Quotas())
        self.turns = turns or EngineTurns()
        self._num_open = 0
        self._inbox: deque[Callable[[], None]] = deque()
        self._has_news = threading.Condition()
        self._is_closing = False
        self._has_stopped = False
        self._has_failed = False
        self._outbox: list[tuple[_Queue, int, News]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_closing and not self._has_stopped

    @property
    def is_idle(self) -> bool:
        """Nobody waits for anything that it computes."""
        return not self._num_open

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

        Raises what `Admission.check` raises, and `EngineStopped`.
        """
        if self._has_stopped or self._is_closing:
            raise EngineStopped(has_failed=self._has_failed)
        self.admission.check(project, num_sequences)

    def generate(self, requests: Iterable[Generate | Pool]) -> AsyncGenerator[tuple[int, Delta]]:
        """The deltas of several choices as they come, each with the index of its choice; the last one of
        each has a `finish_reason`.

        The caller has asked `check_room` for all of them. Raises at once what `Engine.prepare` raises, and
        on the way the `EngineError` of the first choice that fails; then the others end, too.
        """
        queue: _Queue = asyncio.Queue()
        sequences = [
            self.engine.prepare(request, partial(self._put, queue, index))
            for index, request in enumerate(requests)
        ]
        for sequence in sequences:
            sequence.weight = self.admission.weight(sequence.project)
        return self._deltas(sequences, queue)

    async def _deltas(
        self, sequences: list[Sequence], queue: _Queue
    ) -> AsyncGenerator[tuple[int, Delta]]:
        self._post(lambda: self._submit(sequences))
        for sequence in sequences:
            self.admission.enter(sequence)
        self._num_open += 1
        left = dict(enumerate(sequences))
        try:
            while left:
                index, news = await queue.get()
                if isinstance(news, EngineError):
                    raise news
                if news.finish_reason is not None:
                    self.admission.leave(left.pop(index))
                yield index, news
        finally:
            self._num_open -= 1
            if left:
                for sequence in left.values():
                    self.admission.leave(sequence)
                self._post(lambda: self._cancel(left.values()), even_if_stopped=True)

    async def unload(self, adapter_id: str) -> None:
        """As `Engine.unload`. Raises `EngineStopped`."""
        await self._do(lambda: self.engine.unload(adapter_id))

    async def end(self, error: EngineError) -> None:
        """End all open requests with the error. Raises `EngineStopped`."""
        await self._do(lambda: self.engine.end(error))

    async def _do(self, command: Callable[[], None]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def do() -> None:
            assert self._loop is not None
            try:
                command()
                self._flush()
            except Exception:
                # The engine ends with it.
                stopped = EngineStopped(has_failed=True)
                self._loop.call_soon_threadsafe(done.set_exception, stopped)
                raise
            self._loop.call_soon_threadsafe(done.set_result, None)

        self._post(do)
        await done

    def _post(self, command: Callable[[], None], *, even_if_stopped: bool = False) -> None:
        """Have the thread run `command` between two steps."""
        with self._has_news:
            if not self._has_stopped:
                self._inbox.append(command)
                self._has_news.notify()
            elif not even_if_stopped:
                raise EngineStopped(has_failed=self._has_failed)

    # What follows runs on the engine's thread.

    def _run(self) -> None:
        try:
            while self._take_commands():
                with self.turns.turn():
                    self.engine.step()
                self._flush()
        except Exception:
            log.exception("the engine failed; all its requests fail with it")
            self._has_failed = True
        finally:
            self._fail_all()

    def _take_commands(self) -> bool:
        """Run what was posted; sleep while there is nothing to do. False once closed."""
        with self._has_news:
            while not self._inbox and self.engine.is_idle:
                self._has_news.wait()
            num_commands = len(self._inbox)
        # One by one: where one fails, the others are still there for `_fail_all`.
        for _ in range(num_commands):
            self._inbox.popleft()()
        return not self._is_closing

    def _submit(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.engine.submit(sequence)

    def _cancel(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.engine.cancel(sequence)

    def _put(self, queue: _Queue, index: int, news: News) -> None:
        self._outbox.append((queue, index, news))

    def _flush(self) -> None:
        """Deliver what the step produced, in one call into the event loop."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, []

        def deliver() -> None:
            for queue, index, news in outbox:
                queue.put_nowait((index, news))

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
            try:
                command()
            except Exception:
                log.exception("a command failed while the engine ended")
        self.engine.fail_all(EngineStopped(has_failed=self._has_failed))
        self._flush()
