from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from foundation import garbage

loaded = [[number] for number in range(100_000)]
garbage.collect_seldom()
looked_through = len(gc.get_objects())
assert looked_through < 1000, looked_through
loaded.append([])
loaded[-1].append(loaded[-1])
del loaded[-1]
assert gc.collect() > 0, "new garbage is still found"
"""


def test_what_is_loaded_is_not_looked_through_again() -> None:
    """In a process of its own, for it is the whole process that changes."""
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
