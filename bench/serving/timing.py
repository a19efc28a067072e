"""How long something takes, and what two such times say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Setup = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Time:
    """By the clock, and of this process's processors: the latter hardly depends on what else the machine does."""

    wall_s: float
    cpu_s: float

    @classmethod
    def median(cls, times: list[Time]) -> Time:
        walls, cpus = [t.wall_s for t in times], [t.cpu_s for t in times]
        return cls(statistics.median(walls), statistics.median(cpus))

    def rate(self, num_tokens: int) -> str:
        wall, cpu = num_tokens / self.wall_s, num_tokens / self.cpu_s
        return f"{wall:.1f} ({cpu:.1f} a processor second)"

    def over(self, other: Time) -> str:
        wall, cpu = self.wall_s / other.wall_s, self.cpu_s / other.cpu_s
        return f"{wall:.2f} ({cpu:.2f} by processor time)"

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} ({self.cpu_s:.1f} of the processors)"


async def timed(work: Setup) -> Time:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await work()
    return Time(time.perf_counter() - wall_s, time.process_time() - cpu_s)


async def in_turn(setups: Mapping[str, Setup], num_rounds: int) -> dict[str, Time]:
    """Each setup's median of so many rounds. A first round warms up."""
    times: dict[str, list[Time]] = {name: [] for name in setups}
    for _ in range(num_rounds + 1):
        for name, work in setups.items():
            times[name].append(await timed(work))
    return {name: Time.median(rounds[1:]) for name, rounds in times.items()}
