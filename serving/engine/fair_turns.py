"""Turns between projects: who has been served least comes first.

Each project has a counter of what was computed for it, as in "Fairness in Serving Large Language Models"
(Sheng et al., 2024). A project that comes, or comes back after a pause, begins just before the least served
of the others, so nobody saves up turns. Counters are known for as long as a project has sequences.
"""

from __future__ import annotations

from collections.abc import Collection

# A generated token takes a row of its own in a step; a prompt's tokens share theirs.
DECODE_COST = 2


class FairTurns:
    def __init__(self) -> None:
        self.num_taken = 0
        self._served: dict[str, int] = {}

    def enter(self, project: str) -> None:
        """The project has a sequence; harmless if it had others."""
        if project not in self._served:
            self._served[project] = min(self._served.values(), default=0) - 1

    def keep(self, projects: Collection[str]) -> None:
        """Forget the projects that are not among those with sequences."""
        if len(self._served) > len(projects):
            self._served = {p: n for p, n in self._served.items() if p in projects}

    def charge(self, project: str, cost: int) -> int:
        """Something is computed for the project. Gives the number of this turn among all turns."""
        self._served[project] += cost
        self.num_taken += 1
        return self.num_taken

    def served(self, project: str) -> int:
        """What was computed for the project, as far as turns go."""
        return self._served[project]


def fair_shares(demands: dict[str, int], total: int) -> dict[str, int]:
    """`total` handed out one by one in turns, in the order of `demands`, to those who still want some."""
    shares = dict.fromkeys(demands, 0)
    total = min(total, sum(demands.values()))
    while total:
        for project in [p for p in demands if shares[p] < demands[p]][:total]:
            shares[project] += 1
            total -= 1
    return shares
