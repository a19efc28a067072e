"""How much faster small jobs on one base are when their passes are made together than one after the other.

`python -m bench.fused` trains the same jobs both ways in one process, a step of each of them by turns, so that what
else the machine does strikes both alike: same rows, same adapters, the base resident, no checkpoints. Each job has rows,
a seed and a rank of its own. For several sizes of a job's step, from which `SMALL_PASS_TOKENS` was chosen.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Literal

import torch

from bench.train import BASE, Course, bench_config, words, write_rows
from modeling import importer
from modeling.artifacts.lora import TARGET_MODULES
from modeling.base import Precision, choose_precision
from storage.models.base_models import Catalogue
from training.messages import Lora, Report, Start, StepMetrics
from training.process import JobRunner
from training.sharing import fused
from training.sharing.turns import Turns

RANKS = (4, 8, 16, 32)
NUM_EXAMPLES = 64
SKIPPED_STEPS = 3
"""In which jobs come together whose first ones had to load the base."""


def starts(
    directory: Path,
    base_path: Path,
    num_jobs: int,
    batch_size: int,
    precision: Literal["auto"] | Precision = "auto",
) -> list[Start]:
    """Rows of some 30 tokens, as of short questions with short answers."""
    found = []
    for number in range(num_jobs):
        chance = random.Random(number)
        rows = [
            {"prompt": words(chance, 12, 24), "completion": " " + words(chance, 4, 12)}
            for _ in range(NUM_EXAMPLES)
        ]
        config = bench_config(base_path, batch_size=batch_size)
        lora = Lora(rank=RANKS[number % len(RANKS)], alpha=32.0, target_modules=TARGET_MODULES)
        config = config.model_copy(
            update={"trainable": lora, "seed": number, "shared": "auto", "precision": precision}
        )
        folder = directory / f"{batch_size}-{number}"
        folder.mkdir()
        found.append(
            Start(
                job_id=f"bench-{number}",
                config=config,
                training_set=str(write_rows(folder / "rows", config, rows)),
                output_dir=str(folder),
            )
        )
    return found


def steps_together(runner: JobRunner, wanted: Sequence[Start]) -> Callable[[], list[StepMetrics]]:
    """As many steps as there are jobs, as the trainer makes them when the jobs come at the same time."""
    turns = Turns(together=fused.make_together)
    for start in wanted:
        turns.add("", runner.turns(start, lambda: None))

    def steps() -> list[StepMetrics]:
        told: list[StepMetrics] = []
        while len(told) < len(wanted):
            report = turns.next_report()
            if isinstance(report, StepMetrics):
                told.append(report)
        return told

    return steps


def steps_alone(runner: JobRunner, wanted: Sequence[Start]) -> Callable[[], list[StepMetrics]]:
    """A step of each job, one after the other."""
    jobs = [runner.reports(start, lambda: None) for start in wanted]
    return lambda: [_step(job) for job in jobs]


def _step(job: Generator[Report]) -> StepMetrics:
    return next(report for report in job if isinstance(report, StepMetrics))


def measure(
    runner: JobRunner, wanted: Sequence[Start], num_steps: int
) -> tuple[Course, Course, float, float]:
    """Together, alone, the tokens of a job's step and by how much the losses differ at most."""
    together, alone = steps_together(runner, wanted), steps_alone(runner, wanted)
    courses = Course(), Course()
    losses: tuple[dict[tuple[str, int], float], ...] = ({}, {})
    for _ in range(SKIPPED_STEPS + num_steps):
        for course, steps, of_steps in zip(courses, (together, alone), losses, strict=True):
            with course.step():
                told = steps()
            of_steps.update({(m.job_id, m.step): m.values["train_loss"] for m in told})
    apart = max(abs(losses[0][key] - losses[1][key]) for key in losses[0].keys() & losses[1].keys())
    tokens = statistics.mean(m.num_tokens / m.step for m in told)
    return *courses, tokens, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each job")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--precision", choices=["auto", "fp32"], default="auto")
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    # Larger passes than the trainer would make together, to see where it stops to pay.
    setattr(fused, "SMALL_PASS_TOKENS", fused.MAX_FUSED_TOKENS)  # noqa: B010 - it is a constant elsewhere
    with tempfile.TemporaryDirectory() as directory:
        base = Catalogue.load(None, {}).get(BASE)
        assert base is not None
        base_path = importer.ensure_imported(base, arguments.bases_dir or Path(directory))
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        runner = JobRunner()
        print(
            f"{arguments.jobs} jobs on {BASE}, {torch.get_num_threads()} threads of {platform.machine()}, "
            f"torch {torch.__version__}, {choose_precision(arguments.precision)}"
        )
        print(
            f"{'tokens of a step':>16} {'together':>10} {'alone':>10} {'ratio':>6} {'by CPU':>7} {'losses differ':>14}"
        )
        for size in arguments.batch_sizes:
            wanted = starts(Path(directory), base_path, arguments.jobs, size, arguments.precision)
            began_s = time.perf_counter()
            together, alone, tokens, apart = measure(runner, wanted, arguments.steps)
            wall = [statistics.median(c.wall_s[SKIPPED_STEPS:]) for c in (together, alone)]
            cpu = [statistics.median(c.cpu_s[SKIPPED_STEPS:]) for c in (together, alone)]
            print(
                f"{tokens:>16.0f} {wall[0]:>8.2f} s {wall[1]:>8.2f} s {wall[0] / wall[1]:>6.2f} "
                f"{cpu[0] / cpu[1]:>7.2f} {apart:>14.1e}  ({time.perf_counter() - began_s:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
