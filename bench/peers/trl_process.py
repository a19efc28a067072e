"""TRL in a process of its own, with what serves it best."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.train import Course
from modeling.base import Precision
from training.messages import Full, Lora, TrainConfig

LAYOUTS = ("padded", "padding_free", "packed")
"""How SFT's rows lie in a batch: padded; end to end, under a mask that parts them; likewise, but filled up to a length."""
TRIED_STEPS = 3
"""Of each layout, the first of which does not count."""


def settings(
    config: TrainConfig, precision: Precision, rows: Path, output_dir: Path, method: str
) -> dict[str, Any]:
    """What its process is told, but for the layout and how long it trains."""
    told: dict[str, Any] = {
        "base_path": config.base_path,
        "method": method,
        "is_full": isinstance(config.trainable, Full),
        "dtype": "bfloat16" if precision == "bf16" else "float32",
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "max_seq_len": config.max_seq_len,
        "num_threads": config.num_threads,
        "layout": "padded",
        "rows": str(rows),
        "output_dir": str(output_dir),
    }
    lora = config.trainable
    if isinstance(lora, Lora):
        told["rank"], told["alpha"] = lora.rank, int(lora.alpha)
        told["target_modules"] = list(lora.target_modules)
    return told


class Trl:
    """It does nothing between its steps."""

    def __init__(self, python: Path, told: dict[str, Any]) -> None:
        self._log = Path(told["output_dir"]).with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, Path(__file__).with_name("trl_peer.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._say(json.dumps(told))
        self.num_tokens = 0
        """Trained on up to now; 0 where TRL does not count them."""

    def step(self, steps: Course) -> None:
        self._hear()
        self._say("step")
        took = self._hear()
        steps.wall_s.append(took["wall_s"])
        steps.cpu_s.append(took["cpu_s"])
        self.num_tokens = took["num_tokens"]

    def wait_until_saved(self) -> None:
        """Of a whole run."""
        self._hear()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-1500:]
            raise SystemExit(f"TRL's process ended early. The end of what it said:\n{tail}")
        heard: dict[str, Any] = json.loads(line)
        return heard


def best_layout(python: Path, told: dict[str, Any], layouts: Sequence[str] = LAYOUTS) -> str:
    """The layout with which it trains on the most tokens a second. Prints what it tried."""
    if len(layouts) == 1:
        return layouts[0]
    speeds: dict[str, float] = {}
    for layout in layouts:
        steps = Course()
        peer = Trl(python, {**told, "layout": layout, "num_steps": TRIED_STEPS})
        try:
            peer.step(steps)
            before = peer.num_tokens
            for _ in range(TRIED_STEPS - 1):
                peer.step(steps)
            speeds[layout] = (peer.num_tokens - before) / sum(steps.wall_s[1:])
        finally:
            peer.close()
    tried = ", ".join(f"{layout} {speed:.0f}" for layout, speed in speeds.items())
    best = max(speeds, key=lambda layout: speeds[layout])
    print(f"TRL, tokens/s: {tried}; measured below: {best}\n", flush=True)
    return best


def seconds_of_whole_run(python: Path, told: dict[str, Any]) -> float:
    """From the process's start until what it trained is saved."""
    began_s = time.perf_counter()
    peer = Trl(python, {**told, "is_whole_run": True})
    try:
        peer.wait_until_saved()
        return time.perf_counter() - began_s
    finally:
        peer.close()
