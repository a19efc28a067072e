"""What can be said of a job's gain before it has run: honestly little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import Plan

PILOT_ROWS = 2_000
"""From so many on, pilots of 2 to 5 % of them are large enough to say something; with fewer they err by as much as the gain."""
PILOT_SHARES = (0.0125, 0.025, 0.05)

Json = dict[str, Any]


def told(plan: Plan, vote: Mapping[str, Any] | None) -> Json:
    """`vote` is what copying answers from near rows gets right (`worker/forecasting/vote.py`), where somebody looked."""
    if plan.num_rows >= PILOT_ROWS:
        sizes = [round(share * plan.num_examples) for share in PILOT_SHARES]
        return {
            "code": "pilots_possible",
            "pilot_rows": sizes,
            "vote": None,
            "text": f"How much it helps can be told from pilots: jobs of {', '.join(map(str, sizes[:-1]))} and "
            f"{sizes[-1]} of the rows with the same settings, all measured on one validation file.",
        }
    few = (
        f"{plan.num_rows:,} rows are too few for pilots, which say something from {PILOT_ROWS:,} on"
    )
    if vote is None:
        return {
            "code": "too_few_rows",
            "pilot_rows": None,
            "vote": None,
            "text": f"{few}. The job itself tells after a tenth of its steps, and its report, with a validation file.",
        }
    share = vote["right"] / vote["n"]
    return {
        "code": "vote",
        "pilot_rows": None,
        "vote": dict(vote),
        "text": f"{few}. Copying answers from the nearest other rows gets {share:.0%} of {vote['n']} right, without a "
        "model: what tuning must beat. The job itself tells after a tenth of its steps, and its report, with a "
        "validation file.",
    }
