"""Speaks the trainer's language without a model: quick, exact, and faulty on demand.

LUTHIER_FAKE_TRAINER holds JSON: {"step_s": seconds a step, "checkpoint_every": steps, "die_at": steps at
which it kills itself, "die_once": folder (each of them once), "hang_at": a step after which it freezes,
"epoch_losses": the full validation loss of each epoch, "stop_early_at": the step at whose end it stops,
"stuck_at": one after which its main thread hangs, "ask_at": one after which it asks its supervisor,
"alert_at": one after which it alerts, "ahead": pieces that it computes and saves ahead of the first step, "die_ahead": one
behind which it kills itself, "hold_at": steps after which it waits to be told to stop,
"refuse": steps of states that it cannot resume from, "failed": the fields of a Failed that follows the Start, "fail_at": the step that it waits
for}.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from dataset.tokenized import Dataset
from training.messages import (
    Alert,
    CheckpointSaved,
    Exit,
    Failed,
    Finished,
    Lora,
    Ping,
    Pong,
    Ready,
    Start,
    Started,
    StepMetrics,
)
from training.pipes import Link

SCRIPT: dict[str, Any] = json.loads(os.environ.get("LUTHIER_FAKE_TRAINER", "{}"))
TOKENS_PER_EXAMPLE = 7

link = Link(beat_s=0.05, stuck_s=0.5)
say = link.send


def main() -> None:
    say(Ready(pid=os.getpid()))
    while not isinstance(command := link.next(), Exit):
        if "stuck_at" in SCRIPT:
            Run(command).run()
        else:
            threading.Thread(target=Run(command).run, daemon=True).start()
    # The interpreter's own exit trips over the thread that reads stdin.
    os._exit(0)


class Run:
    def __init__(self, start: Start) -> None:
        self.start = start
        self.num_examples = len(Dataset.open(Path(start.training_set)).examples)
        self.steps_per_epoch = math.ceil(self.num_examples / start.config.batch_size)
        self.total_steps = self.steps_per_epoch * start.config.n_epochs
        self.step = self.ahead = 0
        # Stands for the weights: it depends on all that went before.
        self.weights = hashlib.sha256(f"{start.config.seed}".encode()).hexdigest()
        if start.init_artifact:
            file = Path(start.init_artifact) / "adapter_model.safetensors"
            self.weights = file.read_text()
        if start.resume_from:
            state = json.loads((Path(start.resume_from) / "state" / "state.json").read_text())
            self.step, self.weights = state["step"], state["weights"]
            self.ahead = state["ahead"]
        self.saved_step = self.step

    def run(self) -> None:
        job_id = self.start.job_id
        if SCRIPT.get("failed") and not SCRIPT.get("fail_at"):
            say(Failed(job_id=job_id, **SCRIPT["failed"]))
            return
        if self.step in SCRIPT.get("refuse", []):
            say(
                Failed(
                    job_id=job_id,
                    code="invalid_checkpoint",
                    message="The job cannot resume: it is no good",
                    param=None,
                    is_user_error=False,
                )
            )
            return
        say(
            Started(
                job_id=job_id,
                num_examples=self.num_examples,
                num_tokens=self.num_examples * TOKENS_PER_EXAMPLE,
                num_supervised_tokens=self.num_examples,
                total_steps=self.total_steps,
                step=self.step,
                precision="fp32",
                exact_resume=True,
                warnings=SCRIPT.get("warnings", []),
            )
        )
        while self.ahead < SCRIPT.get("ahead", 0):
            if link.stop_reason(job_id) is not None:
                self.finish("stopped")
                return
            time.sleep(SCRIPT.get("step_s", 0))
            self.ahead += 1
            self.save()
            if self.ahead == SCRIPT.get("die_ahead"):
                self.die(f"ahead-{self.ahead}")
        while not self.is_over():
            reason = link.stop_reason(job_id)
            if reason is not None:
                if reason == "checkpoint" and self.step > self.saved_step:
                    self.save()
                self.finish("stopped")
                return
            self.take_step()
            if SCRIPT.get("failed") and SCRIPT["fail_at"] == self.step:
                say(Failed(job_id=job_id, **SCRIPT["failed"]))
                return
        self.finish("succeeded")

    def is_over(self) -> bool:
        return self.step in (self.total_steps, SCRIPT.get("stop_early_at"))

    def take_step(self) -> None:
        time.sleep(SCRIPT.get("step_s", 0))
        self.step += 1
        self.weights = hashlib.sha256(f"{self.weights}{self.step}".encode()).hexdigest()
        say(self.metrics())
        if (
            self.step % self.steps_per_epoch == 0
            or self.step % SCRIPT.get("checkpoint_every", 10**9) == 0
        ):
            self.save()
        self.have_an_accident()
        while self.step in SCRIPT.get("hold_at", []) and not link.stop_reason(self.start.job_id):
            time.sleep(0.01)

    def have_an_accident(self) -> None:
        if self.step == SCRIPT.get("hang_at"):
            # To this thread: sent to the process, it finds another one, and this one runs on until that is awake.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        if self.step == SCRIPT.get("stuck_at"):
            threading.Event().wait()
        if self.step == SCRIPT.get("ask_at"):
            assert link.ask(self.start.job_id, Ping()) == Pong()
        if self.step == SCRIPT.get("alert_at"):
            text = f"Step {self.step} looks odd"
            say(Alert(job_id=self.start.job_id, step=self.step, key="odd", text=text))
        if self.step in SCRIPT.get("die_at", []):
            self.die(str(self.step))

    def die(self, where: str) -> None:
        if SCRIPT.get("die_once"):
            marker = Path(SCRIPT["die_once"]) / f"died-{self.start.job_id}-{where}"
            if marker.exists():
                return
            marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def metrics(self) -> StepMetrics:
        loss = 2 / self.step
        is_evaluated = self.start.validation_set is not None
        is_epoch_end = self.step % self.steps_per_epoch == 0
        values = {"train_loss": loss, "train_mean_token_accuracy": 1 - loss / 4}
        if is_evaluated and self.step % 10 == 0:
            values |= {"valid_loss": loss + 0.1, "valid_mean_token_accuracy": 0.5}
        if is_evaluated and is_epoch_end:
            told = SCRIPT.get("epoch_losses")
            full_loss = told[self.step // self.steps_per_epoch - 1] if told else loss + 0.2
            values |= {"full_valid_loss": full_loss, "full_valid_mean_token_accuracy": 0.6}
        return StepMetrics(
            job_id=self.start.job_id,
            step=self.step,
            total_steps=self.total_steps,
            epoch=(self.step - 1) // self.steps_per_epoch + 1,
            learning_rate=self.start.config.learning_rate,
            num_tokens=self.num_tokens(),
            step_time_s=0.01,
            values=values,
        )

    def num_tokens(self) -> int:
        epochs, steps = divmod(self.step, self.steps_per_epoch)
        in_epoch = min(steps * self.start.config.batch_size, self.num_examples)
        return (epochs * self.num_examples + in_epoch) * TOKENS_PER_EXAMPLE

    def save(self) -> None:
        self.saved_step = self.step
        name = f"step-{self.step}" if self.step else f"step-0-{self.ahead}"
        folder = Path(self.start.output_dir) / name
        (folder / "artifact").mkdir(parents=True)
        (folder / "state").mkdir()
        lora = self.start.config.trainable
        assert isinstance(lora, Lora)
        peft = {"r": lora.rank, "lora_alpha": lora.alpha}
        peft["target_modules"] = list(lora.target_modules)  # type: ignore[assignment]
        (folder / "artifact" / "adapter_config.json").write_text(json.dumps(peft))
        (folder / "artifact" / "adapter_model.safetensors").write_text(self.weights)
        sha256 = hashlib.sha256(self.weights.encode()).hexdigest()
        tensors = {"a": {"dtype": "float32", "shape": [2, 3], "sha256": sha256}}
        manifest = {"kind": "lora", "spec": {"rank": lora.rank}, "tensors": tensors}
        (folder / "artifact.json").write_text(json.dumps(manifest))
        (folder / "state" / "optimizer.safetensors").write_bytes(b"moments" * 100)
        state = {"step": self.step, "weights": self.weights, "ahead": self.ahead}
        (folder / "state" / "state.json").write_text(json.dumps(state))
        say(
            CheckpointSaved(
                job_id=self.start.job_id,
                step=self.step,
                epoch=(self.step - 1) // self.steps_per_epoch + 1,
                path=str(folder),
                end_of_epoch=self.step > 0 and self.step % self.steps_per_epoch == 0,
                is_last=self.is_over(),
                stopped_early=self.step < self.total_steps and self.is_over(),
                metrics=self.metrics() if self.step else None,
            )
        )

    def finish(self, outcome: str) -> None:
        say(
            Finished(
                job_id=self.start.job_id,
                outcome=outcome,
                step=self.step,
                trained_tokens=self.num_tokens(),
            )
        )


if __name__ == "__main__":
    main()
