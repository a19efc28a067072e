"""A prefix through the unmodified client: trained, served, downloaded and gone on from."""

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
from tests.factories import colour_rows

NUM_TOKENS = 12


def greedy(tuned: Any, tokenizer: Any, question: str) -> str:
    prompt: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = prompt["input_ids"]
    num_prompt_tokens = ids.shape[1]
    for _ in range(NUM_TOKENS):
        newest = tuned(input_ids=ids).logits[:, -1:].argmax(-1)
        ids = ids.new_tensor([[*ids[0].tolist(), newest.item()]])
        if newest.item() == tokenizer.eos_token_id:
            break
    text: str = tokenizer.decode(ids[0, num_prompt_tokens:], skip_special_tokens=True)
    return text


@pytest.mark.slow
def test_a_prefix_says_in_peft_what_it_says_here(
    stack: Stack, client: openai.OpenAI, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = jobs.create(
        client,
        colour_rows(24),
        method=jobs.hyperparameters(n_epochs=6, batch_size=4, learning_rate_multiplier=2),
        extra_body={"tuning": {"type": "prefix", "length": 24}},
    )
    done = jobs.wait(client, job.id)
    assert done.status == "succeeded", jobs.events(client, job.id)[-3:]
    assert done.model_extra is not None
    assert done.model_extra["tuning"] == {"type": "prefix", "length": 24}
    losses = [step["train_loss"] for step in jobs.steps(client, job.id)]
    assert losses[-1] < losses[0] / 2
    model = done.fine_tuned_model
    assert model is not None

    reply = httpx.get(
        f"{stack.base_url}/luthier/models/{model}/adapter",
        headers={"authorization": f"Bearer {stack.api_key}"},
    )
    assert reply.status_code == 200, reply.text
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    base = stack.data / "bases" / "tiny-random"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tuned: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path
    ).eval()
    for question in ("Question number 4?", "What else is there?"):
        with torch.inference_mode():
            expected = greedy(tuned, tokenizer, question)
        assert jobs.ask(client, model, question, max_tokens=NUM_TOKENS) == expected
        assert jobs.ask(client, "tiny-random", question, max_tokens=NUM_TOKENS) != expected
