"""How fast a job trains, against a plain loop of transformers and peft in the same run.

`python -m bench.train` fine-tunes the default base with both, step by step in turn, so that what else
the machine does strikes both alike. Same examples in the same order, same adapter, same optimizer:
the losses are compared too. The peer pads its batches and checkpoints no gradients, as its
documentation shows it. The products with the base's weights alone are timed beside them: what a step's time is
measured by.

`bench.methods` sets TRL's trainers beside ours. Further peers worth a place here: LLaMA-Factory, and on a GPU
Unsloth, Axolotl and torchtune.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dataset.examples import Example
from dataset.tokenized import Dataset
from dataset.validation import validate
from modeling import importer
from modeling.artifacts.lora import TARGET_MODULES
from modeling.base import DTYPES, Precision
from modeling.trainable.lora import initial_A
from storage.models.base_models import Catalogue
from text.chat_template import ChatTemplate
from training import batches
from training.messages import Lora, Start, Started, StepMetrics, TrainConfig
from training.process import JobRunner
from training.schedule import learning_rate

from .gemm import BareProducts, micro_batches

BASE = "smollm2-135m-instruct"
NUM_EXAMPLES = 240
SKIPPED_STEPS = 2
WORDS = [
    "the",
    "order",
    "parcel",
    "arrived",
    "broken",
    "yesterday",
    "please",
    "send",
    "another",
    "one",
    "soon",
    "because",
    "my",
    "daughter",
    "has",
    "her",
    "birthday",
    "on",
    "Friday",
    "and",
    "we",
    "would",
    "like",
    "to",
    "know",
    "when",
    "it",
    "leaves",
    "your",
    "house",
    "thank",
    "you",
    "for",
    "asking",
    "we",
    "are",
    "sorry",
    "about",
    "that",
    "and",
    "have",
    "already",
    "told",
    "the",
    "carrier",
    "who",
    "looks",
    "for",
    "it",
    "now",
]


@dataclass
class Course:
    """A trainer's steps: seconds by the wall and of the processors, and losses."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @contextmanager
    def step(self) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s.append(time.perf_counter() - wall_s)
        self.cpu_s.append(time.process_time() - cpu_s)


class Peer:
    """transformers and peft, a padded batch a step."""

    def __init__(
        self, config: TrainConfig, examples: Sequence[Example], dtype: torch.dtype
    ) -> None:
        self._config = config
        self._examples = examples
        lora = config.trainable
        assert isinstance(lora, Lora)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        plain: Any = AutoModelForCausalLM.from_pretrained(config.base_path, dtype=dtype)
        plain.to(device)
        self._model: Any = peft.get_peft_model(
            plain,
            peft.LoraConfig(
                r=lora.rank,
                lora_alpha=int(lora.alpha),
                target_modules=list(lora.target_modules),
                task_type="CAUSAL_LM",
            ),
        )
        self._model.train()
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._start_like_luthier()
        self._optimizer = torch.optim.AdamW(
            self._parameters, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True
        )

    def _start_like_luthier(self) -> None:
        for name, module in self._model.base_model.model.named_modules():
            if hasattr(module, "lora_A"):
                weight = module.lora_A["default"].weight
                initial = initial_A(self._config.seed, name, *weight.shape)
                weight.data.copy_(initial)

    def step(self, step: int, total_steps: int) -> float:
        """The step's loss."""
        config = self._config
        indices = batches.examples_of_step(
            step, len(self._examples), config.batch_size, config.seed
        )
        input_ids, mask, labels = _padded([self._examples[index] for index in indices])
        device = self._model.device
        output = self._model(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            labels=labels.to(device),
        )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, config.max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(
                step,
                peak=config.learning_rate,
                warmup_steps=config.warmup_steps,
                total_steps=total_steps,
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        loss: float = output.loss.item()
        return loss


def _padded(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """ids, attention mask and labels, each (B, T); a label is -100 where nothing is learned."""
    longest = max(example.num_tokens for example in examples)
    input_ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, -100)
    for row, example in enumerate(examples):
        ids = torch.from_numpy(example.input_ids).long()
        input_ids[row, : len(ids)] = ids
        mask[row, : len(ids)] = 1
        labels[row, : len(ids)] = ids.where(torch.from_numpy(example.weights) > 0, -100)
    return input_ids, mask, labels


def words(chance: random.Random, low: int, high: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(low, high)))


def chat(chance: random.Random) -> dict[str, Any]:
    """A support mail of about 90 tokens, of which about 40 are the answer."""
    return {
        "messages": [
            {"role": "system", "content": "You answer mails."},
            {"role": "user", "content": words(chance, 12, 40)},
            {"role": "assistant", "content": words(chance, 12, 58)},
        ]
    }


def write_rows(
    folder: Path, config: TrainConfig, rows: Sequence[dict[str, Any]], method: str = "supervised"
) -> Path:
    """Tokenised, as the worker makes them ready for the trainer."""
    validate(
        [json.dumps(row).encode() + b"\n" for row in rows],
        folder,
        ChatTemplate.load(Path(config.base_path)),
        max_seq_len=config.max_seq_len,
        role="training",
        file_id="file-bench",
        method=method,
        overlap=0 if method == "unsupervised" else None,
    )
    return folder


def bench_config(
    base_path: Path, *, batch_size: int = 8, rank: int = 16, num_threads: int = 0
) -> TrainConfig:
    return TrainConfig(
        base_model=BASE,
        base_path=str(base_path),
        n_epochs=100,
        batch_size=batch_size,
        learning_rate_multiplier=1.0,
        learning_rate=1e-3,
        warmup_steps=5,
        seed=1,
        trainable=Lora(rank=rank, alpha=32.0, target_modules=TARGET_MODULES),
        max_seq_len=2048,
        num_threads=num_threads,
        checkpoint_interval_s=float("inf"),
    )


@dataclass
class Measured:
    """Luthier's steps, the peer's, and their products with the base's weights alone."""

    precision: Precision
    ours: Course = field(default_factory=Course)
    theirs: Course = field(default_factory=Course)
    products: Course = field(default_factory=Course)
    num_operations: list[float] = field(default_factory=list)
    """In the products of each step."""
    tokens: list[int] = field(default_factory=list)
    """Of each step."""


def measure(start: Start, num_steps: int) -> Measured:
    config = start.config
    loaded = Dataset.open(Path(start.training_set))
    reports = JobRunner().reports(start, lambda: None)
    started = next(reports)
    if not isinstance(started, Started):
        raise SystemExit(f"the job did not start: {started}")
    precision: Precision = "bf16" if started.precision == "bf16" else "fp32"
    peer = Peer(config, loaded.examples, DTYPES[precision])
    products = BareProducts(Path(config.base_path), precision)
    measured = Measured(precision)
    for step in range(1, num_steps + 1):
        with measured.ours.step():
            report = next(reports)
        if not isinstance(report, StepMetrics):
            raise SystemExit(f"the job ended early: {report}")
        measured.ours.losses.append(report.values["train_loss"])
        measured.tokens.append(report.num_tokens - sum(measured.tokens))
        computed = micro_batches(step, loaded.examples, config)
        with measured.products.step():
            measured.num_operations.append(products.run(computed))
        with measured.theirs.step():
            measured.theirs.losses.append(peer.step(step, started.total_steps))
    return measured


def print_table(measured: Measured, skipped: int) -> None:
    """Speeds after the first `skipped` steps, in which both fill their caches."""
    ours, theirs = measured.ours, measured.theirs
    total = sum(measured.tokens[skipped:])
    rows = [
        (name, total / sum(course.wall_s[skipped:]), 1000 * sum(course.cpu_s[skipped:]) / total)
        for name, course in (("luthier", ours), ("transformers + peft", theirs))
    ]
    print(f"{'trainer':<20} {'tokens/s':>9} {'CPU s / 1000 tokens':>20} {'last loss':>10}")
    for (name, speed, cpu_s), course in zip(rows, (ours, theirs), strict=True):
        print(f"{name:<20} {speed:>9.1f} {cpu_s:>20.2f} {course.losses[-1]:>10.4f}")
    by_step = [a / b for a, b in zip(theirs.wall_s[skipped:], ours.wall_s[skipped:], strict=True)]
    print(
        f"ratio: {rows[0][1] / rows[1][1]:.2f} by the wall (median step "
        f"{statistics.median(by_step):.2f}), {rows[1][2] / rows[0][2]:.2f} by processor time"
    )
    apart = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))
    print(f"losses differ by {apart:.1e} at most over {len(ours.losses)} steps")
    print_share(measured, skipped)


def print_share(measured: Measured, skipped: int) -> None:
    """How near steps come to the speed of their products with the base's weights, measured beside them."""
    products, ours = measured.products, measured.ours
    giga = sum(measured.num_operations[skipped:]) / 1e9
    step_s, products_s = sum(ours.wall_s[skipped:]), sum(products.wall_s[skipped:])
    shares = [a / b for a, b in zip(products.wall_s[skipped:], ours.wall_s[skipped:], strict=True)]
    cpu_share = sum(products.cpu_s[skipped:]) / sum(ours.cpu_s[skipped:])
    print(
        f"share of the machine's GEMM speed: {products_s / step_s:.2f} by the wall (median step "
        f"{statistics.median(shares):.2f}), {cpu_share:.2f} by processor time: {giga / step_s:.0f} of "
        f"{giga / products_s:.0f} GFLOP/s in {giga / len(shares):.0f} GFLOP of products with the base's weights a step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="timed optimizer steps")
    parser.add_argument("--batch-size", type=int, default=8, help="examples a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--bases-dir", type=Path, help="where imported bases are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Catalogue.load(None, {}).get(BASE)
        assert base is not None
        base_path = importer.ensure_imported(base, arguments.bases_dir or Path(directory))
        config = bench_config(
            base_path,
            batch_size=arguments.batch_size,
            rank=arguments.rank,
            num_threads=arguments.threads,
        )
        chance = random.Random(1)
        chats = [chat(chance) for _ in range(NUM_EXAMPLES)]
        start = Start(
            job_id="bench",
            config=config,
            training_set=str(write_rows(Path(directory) / "chats", config, chats)),
            output_dir=directory,
        )
        measured = measure(start, SKIPPED_STEPS + arguments.steps)
    print(
        f"{BASE}, {measured.precision}, rank {arguments.rank} on all linear layers, {config.batch_size} examples "
        f"of {sum(measured.tokens) / len(measured.tokens) / config.batch_size:.0f} tokens a step, "
        f"{torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}"
    )
    print_table(measured, SKIPPED_STEPS)


if __name__ == "__main__":
    main()
