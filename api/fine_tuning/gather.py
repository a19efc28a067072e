"""One look at the database for all who ask at the same time.

Questions that come while a look is under way wait for the next one. So an answer is never older than its
question, nothing is cached, and a crowd of pollers costs about as many queries as one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import DataError

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")

MAX_QUESTIONS = 500
"""In one look."""


class Gather(Generic[Question, Answer]):
    """`look` answers many questions at once; one that it leaves out is answered by None."""

    def __init__(
        self, look: Callable[[Sequence[Question]], Awaitable[Mapping[Question, Answer]]]
    ) -> None:
        self._look = look
        self._waiting: dict[Question, asyncio.Future[Answer | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer | None:
        """Raises what `look` raises."""
        future = self._waiting.get(question)
        if future is None:
            future = self._waiting[question] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all())
        # One who goes away must not take the answer from the others.
        return await asyncio.shield(future)

    async def _answer_all(self) -> None:
        while self._waiting:
            questions = list(self._waiting)[:MAX_QUESTIONS]
            asked = {question: self._waiting.pop(question) for question in questions}
            await self._answer(asked)

    async def _answer(self, asked: Mapping[Question, asyncio.Future[Answer | None]]) -> None:
        try:
            answers = await self._look(list(asked))
        except DataError as error:
            # A value that the database does not take; it spoils nobody else's question.
            if len(asked) > 1:
                for question, future in asked.items():
                    await self._answer({question: future})
                return
            _fail(asked, error)
        except Exception as error:
            _fail(asked, error)
        else:
            for question, future in asked.items():
                future.set_result(answers.get(question))


def _fail(asked: Mapping[Question, asyncio.Future[Answer | None]], error: Exception) -> None:
    for future in asked.values():
        future.set_exception(error)
        # Marks it as seen, for the case that everybody who asked went away.
        future.exception()
