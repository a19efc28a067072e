from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from training.messages import (
    Answer,
    CheckpointSaved,
    Command,
    Exit,
    Failed,
    Finished,
    Heartbeat,
    Lora,
    Ping,
    Pong,
    Ready,
    Report,
    Request,
    Start,
    Started,
    StepMetrics,
    Stop,
    TrainConfig,
    decode_command,
    decode_report,
    encode,
)

CONFIG = TrainConfig(
    trainable=Lora(rank=8, alpha=32.0, target_modules=("q_proj", "v_proj")),
    base_model="tiny-random",
    base_path="/bases/tiny-random",
    n_epochs=3,
    batch_size=8,
    learning_rate_multiplier=1.0,
    learning_rate=1.32e-3,
    warmup_steps=5,
    seed=7,
    max_seq_len=512,
)
METRICS = StepMetrics(
    job_id="ftjob-1",
    step=3,
    total_steps=9,
    epoch=1,
    learning_rate=1e-300,
    num_tokens=10**12,
    step_time_s=0.5,
    values={"train_loss": 0.1 + 0.2, "train_mean_token_accuracy": 1 / 3, "valid_loss": math.inf},
)


@pytest.mark.parametrize(
    "message",
    [
        Start(job_id="ftjob-1", config=CONFIG, training_set="/a\n\u2028b", output_dir="/out"),
        Stop(job_id="ftjob-1", reason="cancel"),
        Exit(),
        Answer(id=3, reply=Pong()),
        Heartbeat(),
        Request(id=3, job_id="ftjob-1", question=Ping()),
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
    decode = decode_command if isinstance(message, Command) else decode_report
    assert decode(line) == message


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"loading weights...\n", b"[]\n", b'{"kind":"nope"}\n', b'{"kind":"ready"}\n'),
        b'{"kind":"ready","pid":1,"colour":"red"}\n',
    ],
)
def test_decode_refuses_what_is_no_message(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode_report(line)


def test_command_is_no_report() -> None:
    with pytest.raises(ValueError, match="not a message"):
        decode_report(encode(Exit()))


@given(st.floats(allow_nan=False))
def test_every_number_survives_the_pipe(value: float) -> None:
    sent = METRICS.model_copy(update={"values": {"train_loss": value}})
    assert decode_report(encode(sent)) == sent


def test_config_of_the_first_form_is_read() -> None:
    """As version 0.1 wrote it into the rows of its jobs; what it did not know has its neutral value."""
    first_form = {
        "method": "supervised",
        "base_model": "tiny-random",
        "base_path": "/bases/tiny-random",
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "learning_rate": 1.32e-3,
        "warmup_steps": 5,
        "seed": 7,
        "rank": 8,
        "alpha": 32.0,
        "target_modules": ["q_proj", "v_proj"],
        "max_seq_len": 512,
        "micro_batch_tokens": 1024,
    }
    assert TrainConfig.model_validate_json(json.dumps(first_form)) == CONFIG
    assert TrainConfig.model_validate(CONFIG.model_dump(mode="json")) == CONFIG
    with pytest.raises(ValidationError, match="supervised"):
        TrainConfig.model_validate({**first_form, "method": "telepathy"})


def test_messages_import_without_torch() -> None:
    code = "import sys, training.messages; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
