"""Models whose weights themselves were tuned, through the unmodified client: trained, served beside each other, downloaded."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import jobs
from tests.e2e.stack import Stack
from tests.e2e.test_prefix import NUM_TOKENS, greedy
from tests.factories import colour_rows


@pytest.mark.slow
def test_tuned_weights_say_in_transformers_what_they_say_here(
    stack: Stack, client: openai.OpenAI, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tunings: list[dict[str, Any]] = [
        {"type": "full"},
        {"type": "output_layers", "blocks": 1, "head": True},
    ]
    made = [
        jobs.create(
            client,
            colour_rows(24),
            method=jobs.hyperparameters(n_epochs=6, batch_size=4, learning_rate_multiplier=20),
            extra_body={"tuning": tuning},
        )
        for tuning in tunings
    ]
    base = stack.data / "bases" / "tiny-random"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tuned: dict[str, Any] = {}
    for job, tuning in zip(made, tunings, strict=True):
        done = jobs.wait(client, job.id)
        assert done.status == "succeeded", jobs.events(client, job.id)[-3:]
        model = done.fine_tuned_model
        assert model is not None
        reply = httpx.get(
            f"{stack.base_url}/luthier/models/{model}/adapter",
            headers={"authorization": f"Bearer {stack.api_key}"},
        )
        assert reply.headers["x-luthier-artifact-kind"] == tuning["type"], reply.text
        folder = tmp_path / tuning["type"]
        with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
            tar.extractall(folder, filter="data")
        if tuning["type"] == "full":
            tuned[model] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        else:
            tuned[model] = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            weights = load_file(folder / "output_layers.safetensors")
            assert not tuned[model].load_state_dict(weights, strict=False).unexpected_keys
    for question in ("Question number 4?", "What else is there?"):
        for model, downloaded in tuned.items():
            with torch.inference_mode():
                expected = greedy(downloaded, tokenizer, question)
            assert jobs.ask(client, model, question, max_tokens=NUM_TOKENS) == expected
            assert jobs.ask(client, "tiny-random", question, max_tokens=NUM_TOKENS) != expected
