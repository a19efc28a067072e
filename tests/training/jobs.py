"""Small jobs on the tiny-random base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dataset.examples import Example
from dataset.labels import Labels
from dataset.tokenized import Dataset
from dataset.validation import validate
from text.chat_template import ChatTemplate
from training import batches
from training.batches import MicroBatch, ScoredRow
from training.course import Step, Values
from training.messages import (
    Classification,
    Classifier,
    Label,
    Lora,
    Report,
    Start,
    StopReason,
    TrainConfig,
    Unsupervised,
)
from training.primitives import Learner
from training.process import JobRunner

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WORDS = ("red", "a green one", "blue, I would say", "it is yellow", "none")


def config(base_path: Path, *, rank: int = 4, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "trainable": Lora(rank=rank, alpha=32.0, target_modules=ALL_LINEAR),
        "base_model": "tiny-random",
        "base_path": str(base_path),
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "seed": 7,
        "max_seq_len": 128,
        "micro_batch_tokens": 128,
        "precision": "fp32",
        "num_threads": 1,
        "eval_interval_steps": 3,
        "eval_batch_size": 4,
    }
    return TrainConfig(**{**fields, **changes})


def write_chats(path: Path, num_examples: int = 18, *, first: int = 0) -> Path:
    """Conversations of one or two turns and of many lengths."""
    with path.open("w") as file:
        for number in range(first, first + num_examples):
            answer = WORDS[number % len(WORDS)]
            messages = [
                {
                    "role": "user",
                    "content": f"Which colour has number {number}?" + "?" * (number % 7),
                },
                {"role": "assistant", "content": answer, "weight": 1},
            ]
            if number % 3 == 0:
                messages += [
                    {"role": "user", "content": "Sure?"},
                    {"role": "assistant", "content": f"Yes: {answer}."},
                ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def write_texts(path: Path, num_examples: int = 18, *, first: int = 0) -> Path:
    """Documents of many lengths, some longer than the 128 tokens of a window."""
    with path.open("w") as file:
        for number in range(first, first + num_examples):
            text = f"Number {number} is {WORDS[number % len(WORDS)]}. " * (1 + number % 7)
            file.write(json.dumps({"text": text}) + "\n")
    return path


def write_preferences(
    path: Path, num_examples: int = 18, *, first: int = 0, better_is_longer: bool = False
) -> Path:
    """Pairs of a short answer and one that goes on."""
    with path.open("w") as file:
        for number in range(first, first + num_examples):
            question = f"Which colour has number {number}?" + "?" * (number % 7)
            word = WORDS[number % len(WORDS)]
            answers = (word, f"{word}, oh, {word}")
            names = ["preferred_output", "non_preferred_output"]
            if better_is_longer:
                names.reverse()
            outputs = {
                name: [{"role": "assistant", "content": answer}]
                for name, answer in zip(names, answers, strict=True)
            }
            messages = [{"role": "user", "content": question}]
            file.write(json.dumps({"input": {"messages": messages}, **outputs}) + "\n")
    return path


MOODS = {"good": "fine", "bad": "quite awful", "so-so": "neither"}


def write_labelled(path: Path, num_examples: int = 18, *, first: int = 0) -> Path:
    """Texts whose end says which of three labels they have."""
    with path.open("w") as file:
        for number in range(first, first + num_examples):
            label = tuple(MOODS)[number % 5 % 3]
            text = "So " * (number % 7) + f"number {number} is {MOODS[label]}"
            file.write(json.dumps({"text": text, "label": label}) + "\n")
    return path


WRITERS = {
    "supervised": write_chats,
    "unsupervised": write_texts,
    "dpo": write_preferences,
    "classification": write_labelled,
}


def tokenized(
    rows: Path,
    base_path: Path,
    *,
    max_seq_len: int = 128,
    method: str = "supervised",
    overlap: int | None = None,
    labels: Labels | None = None,
) -> Path:
    """The file as the worker makes it ready for the trainer."""
    folder = rows.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    template = ChatTemplate.load(base_path)
    content = [rows.read_bytes()]
    validate(
        content,
        folder,
        template,
        max_seq_len=max_seq_len,
        role="validation",
        file_id="file-1",
        method=method,
        overlap=overlap,
        labels=labels,
    )
    return folder


def start(base_path: Path, directory: Path, **changes: Any) -> Start:
    """A job with 18 training and 6 validation rows of its method; `changes` go to its config."""
    directory.mkdir(parents=True, exist_ok=True)
    job_config = config(base_path, **changes)
    method, max_seq_len = job_config.method, job_config.max_seq_len
    overlap = method.overlap if isinstance(method, Unsupervised) else None
    write = WRITERS[method.kind]
    labels = Labels(are_rows=method.head) if isinstance(method, Classification) else None
    files = {
        "training_set": write(directory / "training.jsonl"),
        "validation_set": write(directory / "validation.jsonl", 6, first=100),
    }
    sets = {
        name: str(
            tokenized(
                file,
                base_path,
                max_seq_len=max_seq_len,
                method=method.kind,
                overlap=overlap,
                labels=labels,
            )
        )
        for name, file in files.items()
    }
    if isinstance(method, Classification) and labels is not None:
        order = (lambda of: of[1].token_ids) if method.head else (lambda of: of[0])
        found = tuple(
            Label(text=text, token_ids=of.token_ids)
            for text, of in sorted(labels.classes.items(), key=order)
        )
        method = method.model_copy(update={"form": labels.form, "labels": found})
        job_config = job_config.model_copy(update={"method": method})
        if method.head:
            lora = job_config.trainable.model_dump(exclude={"kind"})
            classifier = Classifier(**lora, labels=[label.text for label in found])
            job_config = job_config.model_copy(update={"trainable": classifier})
    return Start(job_id="ftjob-1", config=job_config, output_dir=str(directory), **sets)


def examples(base_path: Path, directory: Path, num_examples: int) -> list[Example]:
    chats = write_chats(directory / "examples.jsonl", num_examples)
    return list(Dataset.open(tokenized(chats, base_path)).examples)


def run(
    job: Start, stop_reason: Callable[[], StopReason | None] = lambda: None
) -> Iterator[Report]:
    return JobRunner().reports(job, stop_reason)


def micro_batches(examples: Sequence[Example], micro_batch_tokens: int) -> list[MicroBatch]:
    """Each example a unit of its own."""
    return batches.micro_batches([[ScoredRow.of(each)] for each in examples], micro_batch_tokens)


@torch.no_grad()
def make_effective(learner: Learner) -> None:
    """Have a new adapter do something: B is not zero any more."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in learner.parameters.items():
        if name.endswith("lora_B"):
            parameter.normal_(std=0.05, generator=generator)


def made(step: Step) -> Values:
    """What a step measures whose passes nobody else makes."""
    while True:
        try:
            next(step)
        except StopIteration as done:
            values: Values = done.value
            return values
