from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError

from api.fine_tuning import gather
from api.fine_tuning.gather import Gather


class Looks:
    """Answers each word with itself in capitals, and notes what it was asked.

    While the gate is shut a look stays under way: it has seen its answers, and nobody has them yet.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.unanswered: set[str] = set()

    async def __call__(self, questions: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(list(questions))
        error = self.error
        answers = {word: word.upper() for word in questions if word not in self.unanswered}
        await self.gate.wait()
        if error is not None:
            raise error
        if "unfit" in questions:
            raise DataError("SELECT", {}, Exception("no value for a database"))
        return answers

    async def is_under_way(self, count: int = 1) -> None:
        while len(self.asked) < count:
            await asyncio.sleep(0)


async def begin(asking: Gather[str, str], *words: str) -> list[asyncio.Task[str | None]]:
    """Everybody has asked, in this order, when it returns."""
    tasks = [asyncio.create_task(asking.ask(word)) for word in words]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: list[asyncio.Task[str | None]]) -> list[str | BaseException | None]:
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)


async def test_those_who_ask_during_a_look_share_the_next() -> None:
    looks = Looks()
    asking = Gather(looks)
    looks.gate.clear()
    first = await begin(asking, "a")
    await looks.is_under_way()
    others = await begin(asking, "b", "c", "d")
    assert looks.asked == [["a"]]
    looks.gate.set()
    assert await outcomes(first + others) == ["A", "B", "C", "D"]
    assert looks.asked == [["a"], ["b", "c", "d"]]


async def test_what_several_ask_is_looked_up_once() -> None:
    looks = Looks()
    tasks = await begin(Gather(looks), "a", "b", "a", "a")
    assert await outcomes(tasks) == ["A", "B", "A", "A"]
    assert looks.asked == [["a", "b"]]


async def test_nothing_is_remembered() -> None:
    looks = Looks()
    asking = Gather(looks)
    assert await asking.ask("a") == "A"
    looks.unanswered = {"a"}
    assert await asking.ask("a") is None
    assert looks.asked == [["a"], ["a"]]


async def test_an_answer_is_never_older_than_its_question() -> None:
    looks = Looks()
    looks.unanswered = {"a"}
    asking = Gather(looks)
    looks.gate.clear()
    early = await begin(asking, "a")
    await looks.is_under_way()
    # The look has seen that there is no answer. Now there is one, and then somebody asks.
    looks.unanswered = set()
    late = await begin(asking, "a")
    looks.gate.set()
    assert await outcomes(early + late) == [None, "A"]


async def test_a_question_that_is_left_out_is_none() -> None:
    looks = Looks()
    looks.unanswered = {"b"}
    tasks = await begin(Gather(looks), "a", "b")
    assert await outcomes(tasks) == ["A", None]


async def test_all_who_shared_a_look_hear_that_it_failed() -> None:
    looks = Looks()
    asking = Gather(looks)
    looks.error = error = OperationalError("SELECT", {}, Exception("the server is away"))
    looks.gate.clear()
    failing = await begin(asking, "a", "b", "a")
    await looks.is_under_way()
    looks.error = None
    waiting = await begin(asking, "a", "c")
    looks.gate.set()
    assert await outcomes(failing) == [error, error, error]
    # Those who wait for the next look hear nothing of it.
    assert await outcomes(waiting) == ["A", "C"]
    assert looks.asked == [["a", "b"], ["a", "c"]]


async def test_a_value_that_no_database_takes_spoils_nobody_else_s_question() -> None:
    looks = Looks()
    tasks = await begin(Gather(looks), "a", "unfit", "b", "unfit")
    a, unfit, b, unfit_too = await outcomes(tasks)
    assert (a, b) == ("A", "B")
    assert isinstance(unfit, DataError)
    assert isinstance(unfit_too, DataError)
    assert looks.asked == [["a", "unfit", "b"], ["a"], ["unfit"], ["b"]]


async def test_one_who_goes_away_takes_the_answer_from_nobody() -> None:
    looks = Looks()
    asking = Gather(looks)
    looks.gate.clear()
    tasks = await begin(asking, "a", "a", "b")
    await looks.is_under_way()
    waiting = await begin(asking, "c", "c")
    for leaving in (tasks[0], tasks[2], waiting[0]):
        leaving.cancel()
    await asyncio.wait([tasks[0], tasks[2], waiting[0]])
    looks.gate.set()
    assert await outcomes([tasks[1], waiting[1]]) == ["A", "C"]
    assert tasks[0].cancelled()
    assert await asking.ask("b") == "B"


async def test_a_failure_that_nobody_waits_for_is_no_noise() -> None:
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    looks = Looks()
    asking = Gather(looks)
    looks.error = RuntimeError("nobody hears this")
    looks.gate.clear()
    (leaving,) = await begin(asking, "a")
    await looks.is_under_way()
    leaving.cancel()
    await asyncio.wait([leaving])
    looks.error = None
    looks.gate.set()
    assert await asking.ask("b") == "B"
    gc.collect()
    assert noise == []


async def test_a_look_is_asked_no_more_than_it_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MAX_QUESTIONS", 3)
    looks = Looks()
    words = "abcdefgh"
    tasks = await begin(Gather(looks), *words)
    assert await outcomes(tasks) == list(words.upper())
    assert looks.asked == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]
