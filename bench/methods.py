"""How fast jobs of each method train against TRL, step by step in turn.

`python -m bench.methods --python PEER/bin/python` needs an environment with TRL:
`python -m venv PEER && PEER/bin/pip install torch==2.13.0 trl==1.16.0 peft datasets`. Both train the default base
on the same rows with the same batch size, rank and precision. TRL's best settings here: no gradient checkpointing,
a fused AdamW, DPO's reference computed before; and for SFT the fastest of its three layouts (padded, padding-free,
packed), which is tried before, see `bench.peers.trl_process`. Only steps are timed, not the reading of rows and
not DPO's reference. The case `blocks` sets the last blocks, from their second epoch on, beside Luthier's own LoRA.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset.tokenized import Dataset
from modeling import importer
from modeling.base import Precision
from storage.models.base_models import Catalogue
from training.messages import (
    Alert,
    CheckpointSaved,
    Dpo,
    Full,
    Heartbeat,
    OutputLayers,
    Report,
    Start,
    Started,
    StepMetrics,
    Trainable,
    TrainConfig,
    Unsupervised,
)
from training.process import JobRunner

from .peers import trl_process
from .train import BASE, SKIPPED_STEPS, WORDS, Course, bench_config, chat, words, write_rows

TEXT_TOKENS = 512


@dataclass(frozen=True)
class Case:
    """A method, what is updated, and how many rows there are."""

    name: str
    method: str
    trainable: Trainable | None = None
    """None: LoRA."""
    batch_size: int = 8
    num_rows: int = 256
    skipped_steps: int = SKIPPED_STEPS
    """In which both fill their caches."""
    is_beside_lora: bool = False
    """Instead of beside TRL."""

    has_layouts: bool = False
    """Whether TRL may lay out the rows in several ways, and there is a difference."""

    @property
    def is_full(self) -> bool:
        return self.trainable == Full()


CASES = {
    "sft": Case("LoRA, chats", "supervised", has_layouts=True),
    "text": Case(f"LoRA, raw text of {TEXT_TOKENS} tokens", "unsupervised", batch_size=4),
    # Few rows: what TRL makes of them before its first step takes minutes.
    "dpo": Case("LoRA, preferences", "dpo", batch_size=4, num_rows=48),
    "full": Case("full, chats", "supervised", Full(), has_layouts=True),
    "blocks": Case(
        "the last 2 blocks, chats, beside LoRA",
        "supervised",
        OutputLayers(num_blocks=2),
        num_rows=64,
        skipped_steps=64 // 8,
        is_beside_lora=True,
    ),
}


class Ours:
    """Luthier, in this process."""

    def __init__(self, start: Start) -> None:
        self._reports = JobRunner().reports(start, lambda: None)
        started = next(self._reports)
        if not isinstance(started, Started):
            raise SystemExit(f"the job did not start: {started}")
        self.precision: Precision = "bf16" if started.precision == "bf16" else "fp32"
        self.num_tokens = 0

    def step(self, steps: Course) -> None:
        report: Report | None = None
        while report is None or isinstance(report, CheckpointSaved | Alert | Heartbeat):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            report = next(self._reports)
        steps.wall_s.append(time.perf_counter() - wall_s)
        steps.cpu_s.append(time.process_time() - cpu_s)
        if not isinstance(report, StepMetrics):
            raise SystemExit(f"the job ended early: {report}")
        self.num_tokens = report.num_tokens

    def close(self) -> None:
        self._reports.close()


def _pair(chance: random.Random) -> dict[str, Any]:
    *prompt, preferred = chat(chance)["messages"]
    other = {"role": "assistant", "content": words(chance, 12, 58)}
    return {
        "input": {"messages": prompt},
        "preferred_output": [preferred],
        "non_preferred_output": [other],
    }


def _document(chance: random.Random) -> dict[str, Any]:
    # A word is a token here, and the last one is the document's end.
    return {"text": " ".join(chance.choices(WORDS, k=TEXT_TOKENS - 1))}


_ROWS = {"supervised": chat, "unsupervised": _document, "dpo": _pair}


def _write_theirs(path: Path, rows: list[dict[str, Any]], ours: Path, method: str) -> Path:
    """Token ids as Luthier has them, or for preferences TRL's own form of a row."""
    with path.open("w") as file:
        if method == "dpo":
            for row in rows:
                pair = {
                    "prompt": row["input"]["messages"],
                    "chosen": row["preferred_output"],
                    "rejected": row["non_preferred_output"],
                }
                file.write(json.dumps(pair) + "\n")
            return path
        for example in Dataset.open(ours).examples:
            (sequence,) = example.sequences
            mask = (sequence.weights > 0).astype(int).tolist()
            line = {"input_ids": sequence.input_ids.tolist()}
            if method == "supervised":
                line["completion_mask"] = mask
            file.write(json.dumps(line) + "\n")
    return path


def _config(case: Case, base_path: Path, num_threads: int) -> TrainConfig:
    config = bench_config(base_path, batch_size=case.batch_size, num_threads=num_threads)
    changed: dict[str, Any] = (
        {"learning_rate": 1e-5} if case.is_full or case.method == "dpo" else {}
    )
    if case.method == "dpo":
        changed["method"] = Dpo(beta=0.1)
    elif case.method == "unsupervised":
        changed["method"] = Unsupervised()
    if case.trainable:
        changed["trainable"] = case.trainable
    return config.model_copy(update=changed)


def measure(case: Case, base_path: Path, scratch: Path, arguments: argparse.Namespace) -> None:
    """Prints a line of the table."""
    config = _config(case, base_path, arguments.threads)
    chance = random.Random(1)
    rows = [_ROWS[case.method](chance) for _ in range(case.num_rows)]
    folder = write_rows(scratch / "rows", config, rows, case.method)
    start = Start(
        job_id="bench", config=config, training_set=str(folder), output_dir=str(scratch / "ours")
    )
    (scratch / "ours").mkdir()
    ours, theirs = Course(), Course()
    luthier = Ours(start)
    peer: Ours | trl_process.Trl
    if case.is_beside_lora:
        lora = bench_config(base_path, batch_size=case.batch_size, num_threads=arguments.threads)
        (scratch / "lora").mkdir()
        changed = {"config": lora, "output_dir": str(scratch / "lora")}
        peer = Ours(start.model_copy(update=changed))
    else:
        theirs_rows = _write_theirs(scratch / "rows.jsonl", rows, folder, case.method)
        told = trl_process.settings(
            config, luthier.precision, theirs_rows, scratch / "theirs", case.method
        )
        tokens = [example.num_tokens for example in Dataset.open(folder).examples]
        told["tokens_per_step"] = sum(tokens) * case.batch_size // len(tokens)
        layouts = arguments.layouts if case.has_layouts else ("padded",)
        told["layout"] = trl_process.best_layout(arguments.python, told, layouts)
        told["num_steps"] = case.skipped_steps + arguments.steps
        peer = trl_process.Trl(arguments.python, told)
    tokens_before = peer_tokens_before = 0
    try:
        for step in range(1, case.skipped_steps + arguments.steps + 1):
            luthier.step(ours)
            peer.step(theirs)
            if step == case.skipped_steps:
                tokens_before, peer_tokens_before = luthier.num_tokens, peer.num_tokens
    finally:
        peer.close()
        luthier.close()
    num_tokens = luthier.num_tokens - tokens_before
    # Preferences it does not count, and has the same of.
    peer_tokens = peer.num_tokens - peer_tokens_before or num_tokens
    _print(case, luthier.precision, (num_tokens, peer_tokens), ours, theirs)


def _print(
    case: Case, precision: str, num_tokens: tuple[int, int], ours: Course, theirs: Course
) -> None:
    """Ratios of speeds: tokens by time, for a layout may have more of them in a step."""
    ours_s, theirs_s = (sum(steps.wall_s[case.skipped_steps :]) for steps in (ours, theirs))
    ours_cpu_s, theirs_cpu_s = (sum(steps.cpu_s[case.skipped_steps :]) for steps in (ours, theirs))
    more = num_tokens[0] / num_tokens[1]
    pairs = zip(ours.wall_s[case.skipped_steps :], theirs.wall_s[case.skipped_steps :], strict=True)
    median = more * statistics.median(b / a for a, b in pairs)
    print(
        f"| {case.name} | {precision} | {num_tokens[0] / ours_s:.0f} | {num_tokens[1] / theirs_s:.0f} | "
        f"{more * theirs_s / ours_s:.2f} | {median:.2f} | {more * theirs_cpu_s / ours_cpu_s:.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", type=Path, required=True, help="of an environment with TRL")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=12, help="timed optimizer steps")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=trl_process.LAYOUTS,
        default=trl_process.LAYOUTS,
        help="of TRL's SFT, to choose the fastest of",
    )
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    base = Catalogue.load(None, {}).get(BASE)
    assert base is not None
    print(f"{BASE}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| case | precision | tokens/s | the peer's | ratio | of medians | by processor time |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.cases:
        with tempfile.TemporaryDirectory(prefix="bench-methods-") as directory:
            base_path = importer.ensure_imported(base, arguments.bases_dir or Path(directory))
            measure(CASES[name], base_path, Path(directory), arguments)


if __name__ == "__main__":
    main()
