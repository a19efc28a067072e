"""TRL's trainers, a step at a time: run by `bench.methods` with the Python of an environment that has TRL.

Reads one line of settings from stdin, then a line for each step; writes a line when it is ready for the first
step and one after each. Imports nothing of Luthier.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset  # type: ignore[import-not-found,unused-ignore]
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from trl import (  # type: ignore[import-not-found,unused-ignore] # isort: skip
    DPOConfig,
    DPOTrainer,
    SFTConfig,
    SFTTrainer,
)


class StepByStep(TrainerCallback):
    """Begins a step when it is told to, and tells what it took."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers
        self._began = (0.0, 0.0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._tell({"ready": True})
        if not sys.stdin.readline():
            raise SystemExit("nobody asks for steps any more")
        self._began = (time.perf_counter(), time.process_time())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall_s, cpu_s = self._began
        self._tell({"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s})

    def _tell(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)


def _lora(asked: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=asked["rank"],
        lora_alpha=asked["alpha"],
        target_modules=asked["target_modules"],
        task_type="CAUSAL_LM",
    )


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the libraries print is no answer.
    asked = json.loads(sys.stdin.readline())
    if asked["num_threads"]:
        torch.set_num_threads(asked["num_threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        asked["base_path"], dtype=torch.float32 if asked["is_full"] else asked["dtype"]
    )
    common: dict[str, Any] = {
        "output_dir": asked["output_dir"],
        "max_steps": asked["num_steps"],
        "per_device_train_batch_size": asked["batch_size"],
        "learning_rate": asked["learning_rate"],
        "gradient_checkpointing": False,
        "optim": "adamw_torch_fused",
        "adam_beta2": 0.95,
        "bf16": asked["is_full"] and asked["dtype"] == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "dataloader_pin_memory": False,
        "max_length": asked["max_seq_len"],
    }
    with open(asked["rows"], encoding="utf-8") as file:
        rows = Dataset.from_list([json.loads(line) for line in file])
    if asked["method"] == "dpo":
        trainer, config = DPOTrainer, DPOConfig(**common, precompute_ref_log_probs=True)
    else:
        trainer, config = SFTTrainer, SFTConfig(**common, packing=asked["packing"])
    trainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(asked["base_path"]),
        peft_config=None if asked["is_full"] else _lora(asked),
        callbacks=[StepByStep(answers)],
    ).train()


if __name__ == "__main__":
    main()
