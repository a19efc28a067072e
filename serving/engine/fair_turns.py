"""Turns between projects: who has been served least comes first.

Each project has a counter of what was computed for it, as in "Fairness in Serving Large Language Models"
(Sheng et al., 2024), divided by the project's weight: where two want all, one of weight 3 gets three times as
much as one of weight 1. A project that comes, or comes back after a pause, begins just before the least served
of the others, so nobody saves up turns. Counters are known for as long as a project has sequences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# A generated token takes a row of its own in a step; a prompt's tokens share theirs.
DECODE_COST = 2


class FairTurns:
    def __init__(self) -> None:
        self.num_taken = 0
        self._served: dict[str, float] = {}
        self._weights: dict[str, int] = {}

    def enter(self, project: str, weight: int = 1) -> None:
        """The project has a sequence. Its weight is what came with the latest one."""
        if project not in self._served:
            self._served[project] = min(self._served.values(), default=0) - 1
        self._weights[project] = weight

    def keep(self, projects: Collection[str]) -> None:
        """Forget the projects that are not among those with sequences."""
        if len(self._served) > len(projects):
            self._served = {p: n for p, n in self._served.items() if p in projects}
            self._weights = {p: n for p, n in self._weights.items() if p in projects}

    def charge(self, project: str, cost: int) -> int:
        """Something is computed for the project. Gives the number of this turn among all turns."""
        self._served[project] += cost / self._weights[project]
        self.num_taken += 1
        return self.num_taken

    def served(self, project: str) -> float:
        """What was computed for the project in proportion to its weight, as far as turns go."""
        return self._served[project]

    def weight(self, project: str) -> int:
        return self._weights[project]

    @property
    def total_weight(self) -> int:
        """Of all projects with sequences."""
        return sum(self._weights.values())


def fair_shares(
    demands: Mapping[str, int], total: int, weights: Mapping[str, int] | None = None
) -> dict[str, int]:
    """`total` handed out one by one, in the order of `demands` and in proportion to the weights, to those who
    still want some. Nobody gets a second one before everybody has a first."""
    of = weights or dict.fromkeys(demands, 1)
    first = [project for project in demands if demands[project]][:total]
    shares = dict.fromkeys(demands, 0) | dict.fromkeys(first, 1)
    for _ in range(min(total, sum(demands.values())) - len(first)):
        wanting = (p for p in demands if shares[p] < demands[p])
        project = min(wanting, key=lambda p: shares[p] / of[p])
        shares[project] += 1
    return shares
