from __future__ import annotations

import asyncio
import threading

import pytest

from serving.text_threads import NUM_THREADS, SHORT_BYTES, TextThreads

LONG_BYTES = SHORT_BYTES + 1
TIMEOUT_S = 20.0


async def test_a_project_with_many_texts_does_not_keep_another_waiting() -> None:
    """Nor does it get more than one thread."""
    texts = TextThreads()
    may_end = threading.Event()
    num_begun: list[int] = []

    def hold() -> None:
        num_begun.append(1)
        assert may_end.wait(TIMEOUT_S)

    hostile = [asyncio.create_task(texts.run("a", hold, size_bytes=LONG_BYTES)) for _ in range(50)]
    async with asyncio.timeout(TIMEOUT_S):
        for number in range(20):
            answer = await texts.run("b", lambda n=number: n, size_bytes=LONG_BYTES)  # type: ignore[misc]
            assert answer == number
    assert len(num_begun) == 1
    may_end.set()
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*hostile)
    assert len(num_begun) == 50
    texts.close()


async def test_projects_take_turns() -> None:
    texts = TextThreads()
    may_begin = threading.Event()
    order: list[str] = []

    def hold() -> None:
        assert may_begin.wait(TIMEOUT_S)

    blockers = [
        asyncio.create_task(texts.run(f"blocker {i}", hold, size_bytes=LONG_BYTES))
        for i in range(NUM_THREADS)
    ]
    await asyncio.sleep(0)
    waiting = [
        asyncio.create_task(texts.run(p, lambda p=p: order.append(p), size_bytes=LONG_BYTES))  # type: ignore[misc]
        for p in ["a"] * 6 + ["b"] * 2 + ["c"]
    ]
    await asyncio.sleep(0)
    may_begin.set()
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*blockers, *waiting)
    assert len(order) == 9
    # Two threads run at once, so neighbours may change places.
    assert set(order[:4]) == {"a", "b", "c"}
    assert order[-2:] == ["a", "a"]
    texts.close()


async def test_short_texts_do_not_wait_for_a_thread() -> None:
    texts = TextThreads()
    here = threading.get_ident()
    assert await texts.run("a", threading.get_ident, size_bytes=SHORT_BYTES) == here
    assert await texts.run("a", threading.get_ident, size_bytes=LONG_BYTES) != here
    texts.close()


async def test_failures_and_clients_that_leave_free_the_turn() -> None:
    texts = TextThreads()
    may_end = threading.Event()
    done: list[str] = []
    first = asyncio.create_task(
        texts.run("a", lambda: may_end.wait(TIMEOUT_S), size_bytes=LONG_BYTES)
    )
    left = asyncio.create_task(texts.run("a", lambda: done.append("left"), size_bytes=LONG_BYTES))
    await asyncio.sleep(0)
    for task in (first, left):
        task.cancel()
    may_end.set()
    with pytest.raises(ZeroDivisionError):
        await texts.run("a", lambda: 1 // 0, size_bytes=LONG_BYTES)
    assert await texts.run("a", lambda: "next", size_bytes=LONG_BYTES) == "next"
    assert done == []
    await asyncio.gather(first, left, return_exceptions=True)
    texts.close()
