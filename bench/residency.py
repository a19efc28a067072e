"""What a second job on the same base costs the trainer: memory at its peak, and the time to its first step.

`python -m bench.residency` starts the trainer process twice. One trains one job, the other two that take turns, each for
some steps; the highest resident sizes are compared. Then a job comes to the base that is resident by now: from
`Started`, by which the worker tells a job `running`, to its first step, beside what its later steps take.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from modeling import importer
from storage.models.base_models import Catalogue
from training.messages import (
    Finished,
    Start,
    Started,
    StepMetrics,
    TrainConfig,
)

from .train import BASE, bench_config, chat, write_rows
from .trainer_process import MB, TrainerProcess, trainer


def job(name: str, config: TrainConfig, rows: Path, folder: Path) -> Start:
    (folder / name).mkdir(exist_ok=True)
    return Start(job_id=name, config=config, training_set=str(rows), output_dir=str(folder / name))


def seconds_to_steps(running: TrainerProcess, start: Start) -> list[float]:
    """From `Started` to the first step, and what each later one takes."""
    running.start(start)
    while not isinstance(running.next_report(), Started):
        pass
    took_s: list[float] = []
    began_s = time.perf_counter()
    while not isinstance(report := running.next_report(), Finished):
        if isinstance(report, StepMetrics):
            now_s = time.perf_counter()
            took_s.append(now_s - began_s)
            began_s = now_s
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=64, help="chats of each job")
    parser.add_argument("--batch-size", type=int, default=8, help="examples a step")
    parser.add_argument(
        "--small-batch-size", type=int, default=4, help="of the job that comes late"
    )
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(BASE)
    assert base is not None
    with tempfile.TemporaryDirectory(prefix="bench-residency-") as directory:
        folder = Path(directory)
        base_path = importer.ensure_imported(base, arguments.bases_dir or folder / "bases")
        config = bench_config(base_path, batch_size=arguments.batch_size)
        config = config.model_copy(update={"n_epochs": 1})
        chance = random.Random(1)
        rows = write_rows(folder / "rows", config, [chat(chance) for _ in range(arguments.rows)])
        with trainer() as one:
            one.train(job("alone", config, rows, folder))
            one_mb = one.peak_mb
        with trainer() as two:
            two.train(*(job(name, config, rows, folder) for name in ("first", "second")))
            two_mb = two.peak_mb
            late = config.model_copy(update={"batch_size": arguments.small_batch_size})
            took_s = seconds_to_steps(two, job("late", late, rows, folder))
    print(
        f"{BASE}, peak of the trainer: one job {one_mb:.0f} MB, two at a time {two_mb:.0f} MB: {two_mb / one_mb:.3f} "
        f"times (the aim is 1.15); base on disk {sum(f.stat().st_size for f in base_path.glob('*.safetensors')) / MB:.0f} MB"
    )
    print(
        f"first step {took_s[0]:.2f} s behind `Started` with {arguments.small_batch_size} examples a step (the aim is 1), "
        f"later ones {statistics.median(took_s[1:]):.2f} s"
    )


if __name__ == "__main__":
    main()
