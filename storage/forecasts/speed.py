"""How long a job takes, by how long others took. Pure functions.

Three things take time: beginning and ending, each step, and each token times the parameters of the base. What each of
them costs is fitted to the jobs that a host has run, from the many that are hardly like this one to the few that are: each
fit begins with what the one before it found. How far such forecasts were off decides how wide the interval is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

QUANTILES = {"p05": 0.05, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p95": 0.95}
MIN_RATIOS = 10
"""So many forecasts of like jobs must have been held against their outcomes before their errors say how wide an interval is."""
DEFAULT_SPREAD = (0.6, 2.5)
"""Until then: a twentieth of the jobs takes less than the first times the forecast, a twentieth more than the second. A
host of two shared cores was seen at 235, 150 and 56 tokens a second within two hours."""
BLIND_SPREAD = (0.2, 5.0)
"""Where no job of the host has been measured at all."""
FORGETS = 0.9
"""What a job counts beside the next younger one: a host is as fast as it was lately."""
MIN_BEFORE = 3
"""Jobs that a forecast goes by before its error is taken for one of forecasts."""
_ROUNDS = 4
_TRUST = (0.004, 0.004, 0.001)
"""How much what was known before counts, beside a job that was measured: the start, a step, a token."""
_Costs = tuple[float, float, float]


@dataclass(frozen=True)
class JobWork:
    tokens: float
    """Forward and backward; what is only measured counts a third."""
    steps: int
    num_parameters: int
    """Of the base."""

    @property
    def parts(self) -> _Costs:
        return 1.0, float(self.steps), self.tokens * self.num_parameters / 1e9


@dataclass(frozen=True)
class RunThrough:
    """A job that ran through without a break."""

    work: JobWork
    seconds: float


@dataclass(frozen=True)
class Speed:
    """Seconds of a start, of a step, and of a token for each billion parameters."""

    costs: _Costs

    def seconds(self, work: JobWork) -> float:
        return sum(_times(self.costs, work.parts))


def guessed(num_cores: int, *, has_gpu: bool) -> Speed:
    """Where nothing was measured: a token takes about five operations a parameter with LoRA, a core makes some 40 billion a
    second, a GPU some 100 trillion."""
    operations = 1e14 if has_gpu else 4e10 * max(num_cores, 1)
    return Speed((2.0, 0.02, 5e9 / operations))


def fit(jobs: Sequence[RunThrough], before: Speed) -> Speed:
    """Oldest first. Least squares of errors relative to what is in the middle of both, so that twice and half are as bad;
    none of the costs is below zero. With no jobs it is what was known."""
    if not jobs:
        return before
    scale = median(job.seconds / max(before.seconds(job.work), 1e-9) for job in jobs)
    known = Speed(_times(before.costs, (scale, scale, scale)))
    found = known
    for _ in range(_ROUNDS):
        found = _fit_once(jobs, known, found)
    return found


def _fit_once(jobs: Sequence[RunThrough], known: Speed, last: Speed) -> Speed:
    # In units of what was known, of which each cost is once as much to begin with.
    matrix = [[_TRUST[i] if i == j else 0.0 for j in range(3)] for i in range(3)]
    wanted = list(_TRUST)
    for age, job in enumerate(reversed(jobs)):
        weight = FORGETS**age / (job.seconds * max(last.seconds(job.work), 1e-9))
        row = _times(known.costs, job.work.parts)
        for i in range(3):
            wanted[i] += weight * row[i] * job.seconds
            for j in range(3):
                matrix[i][j] += weight * row[i] * row[j]
    factors = _least(matrix, wanted)
    return Speed(_times(known.costs, (factors[0], factors[1], factors[2])))


def _times(costs: _Costs, factors: _Costs) -> _Costs:
    return costs[0] * factors[0], costs[1] * factors[1], costs[2] * factors[2]


def _least(matrix: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float]:
    """The x of no number below zero with the least x·matrix·x / 2 - wanted·x: by the numbers that are not zero in it."""
    best, lowest = [0.0] * len(wanted), 0.0
    for size in range(1, len(wanted) + 1):
        for kept in itertools.combinations(range(len(wanted)), size):
            part = _solved([[matrix[i][j] for j in kept] + [wanted[i]] for i in kept])
            found = [0.0] * len(wanted)
            for i, value in zip(kept, part, strict=True):
                found[i] = value
            # Where the derivative is zero.
            height = -sum(w * x for w, x in zip(wanted, found, strict=True)) / 2
            if min(part) >= 0 and height < lowest:
                best, lowest = found, height
    return best


def _solved(rows: list[list[float]]) -> list[float]:
    """Of equations with their right side at the end; the matrix is positive definite."""
    size = len(rows)
    for i in range(size):
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for j in range(size):
            if j != i:
                factor = rows[j][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[-1] for row in rows]


def ratios(jobs: Sequence[RunThrough], before: Speed) -> list[float]:
    """Of each job what it took to what would have been forecast of it by those before it. Oldest first."""
    found = []
    for number in range(MIN_BEFORE, len(jobs)):
        speed = fit(jobs[:number], before)
        found.append(jobs[number].seconds / max(speed.seconds(jobs[number].work), 1e-9))
    return found


def spread(errors: Sequence[float], unmeasured: tuple[float, float]) -> Mapping[str, float]:
    """What to multiply a forecast by for each quantile: by the errors of earlier ones if there are enough of them."""
    if len(errors) < MIN_RATIOS:
        return {name: _unmeasured(share, unmeasured) for name, share in QUANTILES.items()}
    ordered = sorted(map(math.log, errors))
    return {name: math.exp(_quantile(ordered, share)) for name, share in QUANTILES.items()}


def _unmeasured(share: float, ends: tuple[float, float]) -> float:
    """As if logarithms were normal on either side, with their twentieths at the ends."""
    normal = NormalDist()
    end = ends[0] if share < 0.5 else ends[1]
    return float(end ** abs(normal.inv_cdf(share) / normal.inv_cdf(0.95)))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Such that the next error lies below it with that probability, as far as so few can say."""
    place = share * (len(ordered) + 1) - 1
    low = min(max(math.floor(place), 0), len(ordered) - 1)
    high = min(low + 1, len(ordered) - 1)
    inner = min(max(place - low, 0.0), 1.0)
    return ordered[low] + inner * (ordered[high] - ordered[low])
