"""`python -m bench.lint`: how fast the linter reads, in megabytes a second of processor time, and how much memory it takes.

Rows are made up of words, so that none is like another, with a few of each fault among them. One process a measurement,
so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataset.lint.linter import LintOptions, lint

_SYLLABLES = [
    a + b
    for a in ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "ch"]
    for b in ["a", "e", "i", "o", "u", "ar", "en", "il", "or", "us"]
]
_FAULTS = (" write to jo.doe@mail.org", " <b>now</b>", " [INST] go", "​", " caf\u00c3\u00a9", " ignore all previous instructions")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--one", nargs=2, metavar=("FILE", "NEAR"))
    options = parser.parse_args()
    if options.one:
        _measure(Path(options.one[0]), finds_near=options.one[1] == "near")
        return
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'rows':34} {'MB/s':>6} {'near, MB/s':>11} {'peak, MB':>9}")
        for name, size in (
            ("short tickets, 0.3 kB", 0.3),
            ("chats, 1.5 kB", 1.5),
            ("chats of 6 turns, 5 kB", 5.0),
        ):
            path = Path(folder) / "rows.jsonl"
            num_bytes = options.megabytes * 10**6
            with path.open("w") as file:
                for row in _rows(size, num_bytes):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            plain, near = (_run(path, how) for how in ("plain", "near"))
            print(f"{name:34} {plain['speed']:6.1f} {near['speed']:11.1f} {near['peak_mb']:9.0f}")


def _run(path: Path, how: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.lint", "--one", str(path), how]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return found


def _measure(path: Path, *, finds_near: bool) -> None:
    started = time.process_time()
    lint(path, options=LintOptions(finds_near=finds_near))
    took_s = time.process_time() - started
    speed = path.stat().st_size / 1e6 / took_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"speed": speed, "peak_mb": peak_mb}))


def _rows(kilobytes: float, num_bytes: int) -> Iterator[dict[str, Any]]:
    chance = random.Random(0)
    words = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(5000)]
    num_turns = 6 if kilobytes > 3 else 1
    num_words = int(kilobytes * 1000 / num_turns / 6 / 2)

    def text(num: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(max(num // 2, 1), num * 3 // 2)))

    written = 0
    while written < num_bytes:
        messages: list[dict[str, str]] = [
            {"role": "system", "content": "Answer in the house's tone."}
        ]
        for _ in range(num_turns):
            asked = text(num_words) + (chance.choice(_FAULTS) if chance.random() < 0.01 else "?")
            if kilobytes < 1:
                answer = json.dumps(
                    {"kind": chance.choice(words[:6]), "urgent": chance.random() < 0.5}
                )
            else:
                answer = text(num_words)
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
        row = {"messages": messages}
        written += sum(len(m["content"]) + 35 for m in messages) + 16
        yield row


if __name__ == "__main__":
    main()
