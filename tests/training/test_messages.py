from __future__ import annotations

import subprocess
import sys

import pytest

from training.messages import (
    CheckpointSaved,
    Command,
    Exit,
    Failed,
    Finished,
    Ready,
    Report,
    Start,
    Started,
    StepMetrics,
    Stop,
    TrainConfig,
    decode,
    encode,
)

CONFIG = TrainConfig(
    base_model="tiny-random",
    base_path="/bases/tiny-random",
    n_epochs=3,
    batch_size=8,
    learning_rate_multiplier=1.0,
    learning_rate=1.32e-3,
    warmup_steps=5,
    seed=7,
    rank=8,
    alpha=32.0,
    target_modules=("q_proj", "v_proj"),
    max_seq_len=512,
)
METRICS = StepMetrics(
    job_id="ftjob-1",
    step=3,
    total_steps=9,
    epoch=1,
    train_loss=0.1 + 0.2,
    train_mean_token_accuracy=1 / 3,
    learning_rate=1e-300,
    num_tokens=10**12,
    step_time_s=0.5,
    full_valid_loss=2.5,
)


@pytest.mark.parametrize(
    "message",
    [
        Start(job_id="ftjob-1", config=CONFIG, training_set="/a\n\u2028b", output_dir="/out"),
        Stop(job_id="ftjob-1", reason="cancel"),
        Exit(),
        Ready(pid=12),
        Started(
            job_id="ftjob-1",
            num_examples=10,
            num_tokens=100,
            num_supervised_tokens=50,
            total_steps=9,
            step=0,
            precision="fp32",
            exact_resume=True,
            warnings=["2 examples were truncated"],
        ),
        METRICS,
        CheckpointSaved(
            job_id="ftjob-1",
            step=3,
            epoch=1,
            path="/out/step-3",
            end_of_epoch=True,
            is_last=False,
            metrics=METRICS,
        ),
        Finished(job_id="ftjob-1", outcome="succeeded", step=9, trained_tokens=900),
        Failed(job_id="ftjob-1", code="x", message="é", param=None, is_user_error=True),
    ],
)
def test_message_survives_the_pipe(message: Command | Report) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"loading weights...\n", b"[]\n", b'{"kind":"Nope"}\n', b'{"kind":"Ready"}\n']
)
def test_decode_refuses_what_is_no_message(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode(line)


def test_messages_import_without_torch() -> None:
    code = "import sys, training.messages; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
