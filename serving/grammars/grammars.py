"""Grammars compiled in threads, each once for a project, and kept as long as there is memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from serving.engine.constraints import Constraint, GrammarRefused, GrammarVocabulary
from serving.engine.grammar_limits import limits_of
from serving.text_threads import SHORT_BYTES, TextThreads

from .process import MAX_CPU_S, CompilerProcess
from .source import GrammarSource

BUDGET_BYTES = 256 << 20


class Grammars:
    """Used on the event loop. Projects share nothing: what a choice does to its grammar is no other's trouble."""

    def __init__(
        self,
        vocabulary: GrammarVocabulary | None,
        *,
        budget_bytes: int = BUDGET_BYTES,
        max_cpu_s: float = MAX_CPU_S,
    ) -> None:
        """Without a vocabulary, for a base whose tokenizer llguidance cannot read, everything is refused."""
        self._vocabulary = vocabulary
        self._budget_bytes = budget_bytes
        self._max_cpu_s = max_cpu_s
        self._kept: OrderedDict[tuple[str, bytes], Constraint] = OrderedDict()
        self._compiling: dict[tuple[str, bytes], asyncio.Task[Constraint]] = {}
        self._threads = TextThreads("grammars")
        # One for each thread; the first is there before anybody asks.
        self._processes = [] if vocabulary is None else [CompilerProcess(vocabulary, max_cpu_s)]
        self._free = list(self._processes)

    @property
    def num_kept(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return sum(constraint.size_bytes for constraint in self._kept.values())

    async def compile(self, source: GrammarSource, project: str = "") -> Constraint:
        """What the engine holds a reply to. Raises `InvalidRequest` where that cannot be."""
        key = project, source.digest
        kept = self._kept.get(key)
        if kept is not None and not kept.is_worn:
            self._kept.move_to_end(key)
            return kept
        task = self._compiling.get(key)
        if task is None:
            task = asyncio.create_task(self._compile(key, source))
            self._compiling[key] = task
            task.add_done_callback(lambda done: self._note_done(key, done))
        try:
            # A client that goes away must not take it away from the others who wait for it.
            return await asyncio.shield(task)
        except GrammarRefused as error:
            raise source.refusal(error) from None

    def close(self) -> None:
        self._threads.close()
        for process in self._processes:
            process.close()

    def _note_done(self, key: tuple[str, bytes], task: asyncio.Task[Constraint]) -> None:
        self._compiling.pop(key, None)
        if not task.cancelled():
            # Perhaps nobody waits for it any more.
            task.exception()

    async def _compile(self, key: tuple[str, bytes], source: GrammarSource) -> Constraint:
        vocabulary = self._vocabulary
        if vocabulary is None:
            raise GrammarRefused("the tokenizer of this base model is of a kind that has none")
        # Never at once: it takes longer than its text is long.
        constraint = await self._threads.run(
            key[0],
            lambda: self._compiled(vocabulary, source),
            size_bytes=SHORT_BYTES + len(source.text),
        )
        self._kept[key] = constraint
        self._kept.move_to_end(key)
        while self.size_bytes > self._budget_bytes and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return constraint

    def _compiled(self, vocabulary: GrammarVocabulary, source: GrammarSource) -> Constraint:
        """In a thread. Raises `GrammarRefused`, in bounded time."""
        try:
            process = self._free.pop()
        except IndexError:
            process = CompilerProcess(vocabulary, self._max_cpu_s)
            self._processes.append(process)
        try:
            grammar = process.grammar(source)
        finally:
            self._free.append(process)
        return Constraint(
            vocabulary, grammar, limits=limits_of(source.kind, is_ours=source.is_ours)
        )
