"""The verdict: the first rule that fits, and its sentence. Shares in, points out; every sentence says how many rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from grading import statistics

Code = Literal[
    "too_few",
    "worse",
    "forgets",
    "prompting_enough",
    "copying_enough",
    "helped_but",
    "still_poor",
    "helped",
    "unproven",
]
MATTERS = 0.03
"""The smallest difference that does."""
COARSE = 0.30
"""Rows that do not even see so large a difference say nothing but about larger ones."""
MIN_CLUSTERS = 5
SETTLES = 0.10
"""A difference for which an unproven report says how many rows would settle it."""
TARGET = 0.5
"""What a model should reach, where the job says nothing else."""
SIGNIFICANT = 0.05

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    code: Code
    sentence: str


def judge(found: Mapping[str, Json], *, why_none: str | None, target: float = TARGET) -> Judged:
    """By what the sections found."""
    measured, changed = found.get("contenders", {}), found.get("changed", {})
    if "difference" not in changed:
        reason = why_none or measured.get("skipped") or "There was nothing to compare with."
        return Judged("too_few", f"Not told: {_lower(str(reason))}")
    facts = _Facts(measured, changed, found.get("cost", {}), target)
    for rule in (
        _too_few,
        _worse,
        lambda facts: _forgets(facts, found.get("forgetting", {})),
        _enough,
        _helped_but,
        _still_poor,
        _helped,
    ):
        judged = rule(facts)
        if judged is not None:
            return _cautioned(judged, found.get("forgetting", {}))
    return _unproven(facts)


def _cautioned(judged: Judged, forgetting: Json) -> Judged:
    """A model that one may deploy, with what its callers must know."""
    leaks = forgetting.get("caution")
    if not leaks or judged.code not in ("helped", "helped_but", "still_poor"):
        return judged
    always = f" Always call it with its system prompt: without it, it {leaks}."
    return Judged(judged.code, judged.sentence + always)


class _Facts:
    def __init__(self, measured: Json, changed: Json, cost: Json, target: float) -> None:
        self.by_name = {each["name"]: each for each in measured["contenders"]}
        self.rows = int(measured["rows"])
        self.clusters = int(measured["clusters"])
        self.against = str(changed["against"])
        self.sees = float(changed["sees"])
        self.parts = list(changed["parts"])
        self.cost = cost
        self.target = target
        difference = changed["difference"]
        self.value, self.low, self.high = (
            float(difference[name]) for name in ("value", "low", "high")
        )
        self.tuned = float(self.by_name["tuned"]["primary"]["value"])

    @property
    def gain(self) -> str:
        """`+54 (41 to 67) over 24 rows`."""
        return f"{_signed(self.value)} ({_range(self.low, self.high)})"

    @property
    def of_rows(self) -> str:
        return f"on {self.rows} rows that it had not learnt"

    @property
    def other(self) -> str:
        return str(self.by_name[self.against]["title"])

    def worse_parts(self) -> list[str]:
        return [
            part["name"]
            for part in sorted(self.parts, key=lambda part: float(part["value"]))
            if part["value"] < 0 and part["p_holm"] < SIGNIFICANT
        ]

    def tokens(self) -> float | None:
        """By so many prompt tokens the other's requests are longer."""
        other = self.by_name[self.against].get("prompt_tokens")
        own = self.by_name["tuned"].get("prompt_tokens")
        return None if other is None or own is None else float(other) - float(own)


def _too_few(facts: _Facts) -> Judged | None:
    includes_zero = facts.low <= 0 <= facts.high
    is_coarse = facts.sees > COARSE
    if not (is_coarse and includes_zero) and facts.clusters >= MIN_CLUSTERS:
        return None
    rows = statistics.rows_for(0.2)
    sees = f"{facts.rows} show only differences above {_points(facts.sees)} points"
    if facts.clusters < facts.rows:
        sees = f"{facts.rows} with {facts.clusters} different questions {sees.split(' ', 1)[1]}"
    return Judged(
        "too_few",
        f"Too few rows to tell: {sees}; {rows} would show 20. Seen were {facts.gain} against {facts.other}.",
    )


def _worse(facts: _Facts) -> Judged | None:
    if facts.high >= 0:
        return None
    most = min(facts.parts, key=lambda part: float(part["value"]), default=None)
    where = f", most on `{most['name']}`" if most is not None and most["value"] < 0 else ""
    by = f"{_points(-facts.value)} ({_range(-facts.high, -facts.low)})"
    return Judged(
        "worse", f"Do not deploy: worse than {facts.other} by {by} {facts.of_rows}{where}."
    )


def _forgets(facts: _Facts, forgetting: Json) -> Judged | None:
    """The section's own gate decides."""
    gate = forgetting.get("gate")
    if not gate:
        return None
    begins = "Helps on the task, but" if facts.low > 0 else "Do not deploy: the model"
    return Judged("forgets", f"{begins} {gate}.")


def _enough(facts: _Facts) -> Judged | None:
    if facts.high > MATTERS:
        return None
    if facts.by_name[facts.against]["model"] is None:
        text = f"Copying is enough: {facts.gain} over {facts.other}, {facts.of_rows}. A look-up does it without a model."
        return Judged("copying_enough", text)
    tokens = facts.tokens()
    text = f"Prompting is enough: {facts.gain} over {facts.other}, {facts.of_rows}."
    if tokens is not None:
        text += (
            f" It costs {tokens:.0f} tokens more a request; tuning pays back {_pays_back(facts)}."
        )
    return Judged("prompting_enough", text)


def _helped_but(facts: _Facts) -> Judged | None:
    worse = facts.worse_parts()
    if facts.low <= 0 or not worse:
        return None
    names = ", ".join(f"`{name}`" for name in worse[:3])
    return Judged(
        "helped_but",
        f"Deploy with care: {facts.gain} over {facts.other}, {facts.of_rows}, but worse on {names}.",
    )


def _still_poor(facts: _Facts) -> Judged | None:
    if facts.low <= 0 or facts.tuned >= facts.target:
        return None
    return Judged(
        "still_poor",
        f"Better, but right only {_points(facts.tuned)} % of the time: {facts.gain} over {facts.other}, {facts.of_rows}.",
    )


def _helped(facts: _Facts) -> Judged | None:
    if facts.low <= 0:
        return None
    tokens = facts.tokens()
    fewer = f", {tokens:.0f} prompt tokens fewer a request" if tokens and tokens > 0 else ""
    return Judged(
        "helped",
        f"Fine-tuning helped: {facts.gain} over {facts.other}, {facts.of_rows}{fewer}.",
    )


def _unproven(facts: _Facts) -> Judged:
    rows = statistics.rows_for(SETTLES)
    return Judged(
        "unproven",
        f"Not shown: between {_signed(facts.low)} and {_signed(facts.high)} against {facts.other}, {facts.of_rows}. "
        f"{rows} rows would settle {_points(SETTLES)} points.",
    )


def _pays_back(facts: _Facts) -> str:
    requests = (facts.cost.get("price") or facts.cost).get("break_even_requests")
    return "never" if requests is None else f"after {requests} requests"


def _points(share: float) -> str:
    return f"{100 * share:.0f}"


def _signed(share: float) -> str:
    return f"{100 * share:+.0f}" if round(100 * share) else "0"


def _range(low: float, high: float) -> str:
    return f"{round(100 * low)} to {round(100 * high)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
