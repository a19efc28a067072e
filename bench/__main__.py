"""`python -m bench`: every measurement, one after the other. Each can be run alone: `python -m bench.train`.

`bench.methods` and `bench.submit` are not among them: they need an environment with TRL.
"""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    *("train", "residency", "memory", "serve", "flood", "first_token", "poll", "lint", "hostile"),
    *("soak", "churn"),
)
for name in NAMES:
    subprocess.run([sys.executable, "-m", f"bench.{name}"], check=True)
