from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from errands.batches.line_turns import LineTurns

LIMIT = 3


class Lines:
    """Lines that begin when their turn comes and end when told to."""

    def __init__(self) -> None:
        self.turns = LineTurns(LIMIT)
        self.tasks: list[asyncio.Task[None]] = []
        self.under_way: list[tuple[str, asyncio.Event]] = []

    async def add(self, project_id: str) -> None:
        self.tasks.append(asyncio.create_task(self._line(project_id)))
        await self.settle()

    async def end(self, index: int) -> None:
        """One of those under way, if any is."""
        if self.under_way:
            self.under_way[index % len(self.under_way)][1].set()
            await self.settle()

    async def cancel(self, index: int) -> None:
        """One of all, whatever it does."""
        if self.tasks:
            self.tasks[index % len(self.tasks)].cancel()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.tasks = [task for task in self.tasks if not task.done()]

    def counts(self) -> Counter[str]:
        return Counter(project_id for project_id, _ in self.under_way)

    async def _line(self, project_id: str) -> None:
        async with self.turns.turn(project_id):
            entry = (project_id, asyncio.Event())
            self.under_way.append(entry)
            try:
                await entry[1].wait()
            finally:
                self.under_way.remove(entry)


def test_first_line_of_a_project_does_not_wait_for_those_of_another() -> None:
    async def main() -> None:
        lines = Lines()
        for _ in range(50):
            await lines.add("a")
        assert lines.counts() == {"a": LIMIT}
        for _ in range(5):
            await lines.add("b")
        assert lines.counts() == {"a": LIMIT, "b": 1}
        # Nothing new of the first until the second has its share.
        for _ in range(2):
            await lines.end(0)
        assert lines.counts() in ({"a": 2, "b": 1}, {"a": 1, "b": 2})
        for task in lines.tasks:
            task.cancel()

    asyncio.run(main())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcd")),
        st.tuples(st.sampled_from(["end", "cancel"]), st.integers(0, 30)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_project_has_a_line_under_way_whatever_ends_or_is_broken_off(
    steps: list[tuple[str, str | int]],
) -> None:
    async def main() -> None:
        lines = Lines()
        for name, argument in steps:
            await getattr(lines, name)(argument)
        await lines.settle()
        counts = lines.counts()
        # The first line of each may come on top of the limit.
        assert sum(max(0, count - 1) for count in counts.values()) <= LIMIT
        waiting = len(lines.tasks) - counts.total()
        assert waiting == 0 or counts.total() >= LIMIT
        while lines.tasks:
            assert lines.under_way
            await lines.end(0)
        for _ in range(2 * LIMIT):
            await lines.add("e")
        assert lines.counts() == {"e": LIMIT}
        for task in lines.tasks:
            task.cancel()

    asyncio.run(main())
