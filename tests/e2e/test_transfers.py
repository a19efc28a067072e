"""Models that leave and come back, and jobs that are trained again, by the command on a running server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import openai
import pytest

from tests.e2e import jobs
from tests.e2e.stack import LUTHIER, Stack
from tests.factories import colour_rows


@pytest.fixture(scope="module")
def job_id(stack: Stack) -> str:
    with stack.client() as client:
        job = jobs.create(
            client,
            colour_rows(10),
            model="tiny-random",
            method=jobs.hyperparameters(n_epochs=1, batch_size=4),
        )
        assert jobs.wait(client, job.id).status == "succeeded"
        return job.id


@pytest.fixture
def model(client: openai.OpenAI, job_id: str) -> str:
    name = client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert name is not None
    return name


def luthier(stack: Stack, *words: str) -> str:
    done = subprocess.run(
        [LUTHIER, *words, "--data", str(stack.data)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_job_that_is_trained_again_makes_the_same_bytes(stack: Stack, job_id: str) -> None:
    said = luthier(stack, "reproduce", job_id).splitlines()
    assert said[-1] == "Equal: all 28 tensors have the same SHA-256"
    assert not [line for line in said if " then, " in line]


@pytest.mark.slow
def test_an_export_is_made_and_verified(stack: Stack, model: str, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    luthier(stack, "export", model, "--format", "gguf", "--quantization", "q8_0", "-o", str(output))
    names = {"model-q8_0.gguf", "README.md", "manifest.json", "manifest.json.sig"}
    assert {file.name for file in output.iterdir()} == names
    assert f"{model} as gguf: 2 files are as signed by" in luthier(stack, "verify", str(output))
    card = (output / "README.md").read_text()
    assert "SHA-256 of the training file" in card
    assert "train_loss" in card


@pytest.mark.slow
def test_an_imported_adapter_answers_as_the_model_that_it_was(
    stack: Stack, client: openai.OpenAI, model: str, tmp_path: Path
) -> None:
    luthier(stack, "models", "download", model, str(tmp_path / "adapter"))
    said = luthier(stack, "models", "import", str(tmp_path / "adapter"), "--base", "tiny-random")
    imported = said.removeprefix("Model: ").strip()
    replies = [
        client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "What colour is it?"}],
            temperature=0,
            max_tokens=16,
        )
        .choices[0]
        .message.content
        for name in (model, imported)
    ]
    assert replies[0] == replies[1]
