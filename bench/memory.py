"""How much memory the trainer takes for a large training file, above what it takes for a small one.

`python -m bench.memory --file-mb 500` writes a file of chats of about a kilobyte, lets the trainer process
read it and train a few steps, and prints its highest resident size beside that for a file of 1 MB. Reading
goes at about a megabyte a second.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from modeling import importer
from storage.models.base_models import Catalogue
from training.messages import Exit, Ready, Report, Start, Started, StepMetrics, Stop, decode, encode

from .train import BASE, WORDS, bench_config

MB = 1_000_000


@dataclass(frozen=True)
class Result:
    reading_s: float
    num_examples: int
    peak_mb: float
    """The trainer's highest resident size."""


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
    training_file = write_chats(folder / "chats.jsonl", num_mb * MB)
    start = Start(
        job_id="bench",
        config=bench_config(base_path),
        training_file=str(training_file),
        output_dir=str(folder),
    )
    with subprocess.Popen(
        [sys.executable, "-m", "training"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout

        def next_report() -> Report:
            assert process.stdout
            report = decode(process.stdout.readline())
            assert not isinstance(report, Start | Stop | Exit)
            return report

        while not isinstance(next_report(), Ready):
            pass
        started_s = time.perf_counter()
        process.stdin.write(encode(start))
        process.stdin.flush()
        while not isinstance(report := next_report(), Started):
            print(report, file=sys.stderr)
        reading_s = time.perf_counter() - started_s
        for _ in range(num_steps):
            if not isinstance(metrics := next_report(), StepMetrics):
                raise SystemExit(f"the job ended early: {metrics}")
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak
    return Result(reading_s, report.num_examples, int(peak[1]) * 1024 / MB)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--file-mb", type=int, default=500)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps after reading")
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    print(f"{'file MB':>8} {'examples':>9} {'reading s':>10} {'peak MB':>8}")
    peaks = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        base = Catalogue.load(None, {}).get(BASE)
        assert base is not None
        base_path = importer.ensure_imported(base, arguments.bases_dir or folder)
        for num_mb in (1, arguments.file_mb):
            result = train(base_path, folder, num_mb, arguments.steps)
            peaks.append(result.peak_mb)
            print(
                f"{num_mb:>8} {result.num_examples:>9} {result.reading_s:>10.1f} {result.peak_mb:>8.0f}",
                flush=True,
            )
    print(f"{peaks[1] - peaks[0]:.0f} MB more for {arguments.file_mb} MB")


if __name__ == "__main__":
    main()
