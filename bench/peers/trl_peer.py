"""TRL's trainers, a step at a time or a whole run: run by `bench.peers.trl_process` with the Python of an environment that has TRL.

Reads one line of settings from stdin. Of a whole run it writes a line when the model is saved. Else it reads a line
for each step, and writes one when it is ready for the first and one after each. Imports nothing of Luthier.
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

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 -- transformers' signature
        wall_s, cpu_s = self._began
        self._tell(
            {
                "wall_s": time.perf_counter() - wall_s,
                "cpu_s": time.process_time() - cpu_s,
                # Up to now; 0 where it does not count them.
                "num_tokens": int(state.num_input_tokens_seen),
            }
        )

    def _tell(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)


def _lora(asked: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=asked["rank"],
        lora_alpha=asked["alpha"],
        target_modules=asked["target_modules"],
        task_type="CAUSAL_LM",
    )


def _layout(asked: dict[str, Any]) -> dict[str, Any]:
    """How SFT's rows lie in a batch."""
    match asked["layout"]:
        case "padding_free":
            # The rows are no longer than they may be; TRL wants to hear that it need not look.
            return {"padding_free": True, "max_length": None}
        case "packed":
            # As many tokens a step as the same number of rows has otherwise.
            size = asked["tokens_per_step"]
            return {"packing": True, "max_length": size, "per_device_train_batch_size": 1}
        case _:
            return {"max_length": asked["max_seq_len"]}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What the libraries print is no answer.
    asked = json.loads(sys.stdin.readline())
    if asked["num_threads"]:
        torch.set_num_threads(asked["num_threads"])
    is_whole_run = asked.get("is_whole_run", False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        asked["base_path"], dtype=torch.float32 if asked["is_full"] else asked["dtype"]
    )
    common: dict[str, Any] = {
        "output_dir": asked["output_dir"],
        **({"num_train_epochs": 1} if is_whole_run else {"max_steps": asked["num_steps"]}),
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
        trainer_class, config = DPOTrainer, DPOConfig(**common, precompute_ref_log_probs=True)
    else:
        counts = {} if is_whole_run else {"include_num_input_tokens_seen": "non_padding"}
        trainer_class, config = SFTTrainer, SFTConfig(**{**common, **counts, **_layout(asked)})
    trainer = trainer_class(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(asked["base_path"]),
        peft_config=None if asked["is_full"] else _lora(asked),
        callbacks=[] if is_whole_run else [StepByStep(answers)],
    )
    trainer.train()
    if is_whole_run:
        trainer.save_model()
        print(json.dumps({"saved": True}), file=answers, flush=True)


if __name__ == "__main__":
    main()
