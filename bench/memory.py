"""How much memory a large training file takes, above what a small one takes.

`python -m bench.memory --file-mb 500` writes a file of chats of about a kilobyte, tokenises it in one process, as the
worker does, lets the trainer process train a few steps on it, and prints the highest resident size of both beside
those for a file of 1 MB. Reading goes at about a megabyte a second.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from dataset.validation import validate
from modeling import importer
from storage.models.base_models import Catalogue
from text.chat_template import ChatTemplate
from training.messages import (
    Start,
    Started,
    StepMetrics,
    TrainConfig,
)
from worker.job.prepare import READ_BYTES

from .train import BASE, WORDS, bench_config
from .trainer_process import MB, peak_mb, trainer


@dataclass(frozen=True)
class Result:
    reading_s: float
    num_examples: int
    reading_mb: float
    """The highest resident size of the process that tokenises."""
    training_mb: float
    """That of the trainer."""


def write_chats(path: Path, num_bytes: int) -> Path:
    """Chats whose texts differ, so that no cache of the tokenizer helps."""
    generator = random.Random(1)
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            texts = (" ".join(generator.choices(WORDS, k=80)) for _ in range(2))
            messages = [
                {"role": role, "content": f"{generator.getrandbits(64)} {text}"}
                for role, text in zip(("user", "assistant"), texts, strict=True)
            ]
            file.write(orjson.dumps({"messages": messages}) + b"\n")
    return path


def train(base_path: Path, folder: Path, num_mb: int, num_steps: int) -> Result:
    """Let a trainer of its own read `num_mb` and take some steps."""
    config = bench_config(base_path)
    chats = write_chats(folder / f"chats-{num_mb}.jsonl", num_mb * MB)
    started_s = time.perf_counter()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        reading_mb = pool.submit(read, chats, config).result()
    reading_s = time.perf_counter() - started_s
    start = Start(
        job_id="bench",
        config=config,
        training_set=str(chats.with_suffix("")),
        output_dir=str(folder),
    )
    with trainer() as running:
        running.start(start)
        if not isinstance(started := running.next_report(), Started):
            raise SystemExit(f"the job did not start: {started}")
        for _ in range(num_steps):
            if not isinstance(metrics := running.next_report(), StepMetrics):
                raise SystemExit(f"the job ended early: {metrics}")
        training_mb = running.peak_mb
    return Result(reading_s, started.num_examples, reading_mb, training_mb)


def read(chats: Path, config: TrainConfig) -> float:
    """Tokenise the file into the folder of its name, as a worker does. Returns the highest resident size in MB."""
    template = ChatTemplate.load(Path(config.base_path))
    with chats.open("rb") as file:
        validate(
            iter(lambda: file.read(READ_BYTES), b""),
            chats.with_suffix(""),
            template,
            max_seq_len=config.max_seq_len,
            role="training",
            file_id="file-bench",
            method="supervised",
        )
    return peak_mb(os.getpid())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file-mb", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps after reading")
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    print(f"{'file MB':>8} {'examples':>9} {'reading s':>10} {'reader MB':>10} {'trainer MB':>11}")
    results = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        base = Catalogue.load(None, {}).get(BASE)
        assert base is not None
        base_path = importer.ensure_imported(base, arguments.bases_dir or folder)
        for num_mb in (1, arguments.file_mb):
            result = train(base_path, folder, num_mb, arguments.steps)
            results.append(result)
            print(
                f"{num_mb:>8} {result.num_examples:>9} {result.reading_s:>10.1f} {result.reading_mb:>10.0f} "
                f"{result.training_mb:>11.0f}",
                flush=True,
            )
    small, large = results
    print(
        f"{large.reading_mb - small.reading_mb:.0f} MB more to read {arguments.file_mb} MB, "
        f"{large.training_mb - small.training_mb:.0f} MB more to train on them"
    )


if __name__ == "__main__":
    main()
