"""A classifier with a head through the unmodified client: trained, asked, and downloaded for transformers."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.e2e import jobs
from tests.e2e.stack import Stack

WORDS = {"good": "lovely nice fine", "bad": "awful broken late", "so-so": "average plain usual"}


def rows(count: int) -> list[dict[str, Any]]:
    """Each with a word that tells its label."""
    found = []
    for number in range(count):
        label = list(WORDS)[number % 3]
        word = WORDS[label].split()[number // 3 % 3]
        found.append({"text": f"Number {number} was {word}.", "label": label})
    return found


@pytest.mark.slow
def test_a_head_says_in_transformers_what_it_says_here(
    stack: Stack, client: openai.OpenAI, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    asked = {"head": True, "n_epochs": 30, "batch_size": 6}
    method = {"type": "classification", "classification": {"hyperparameters": asked}}
    job = jobs.create(client, rows(12), extra_body={"method": method})
    done = jobs.wait(client, job.id)
    assert done.status == "succeeded", jobs.events(client, job.id)[-3:]
    model = done.fine_tuned_model
    assert model is not None
    texts = [row["text"] for row in rows(12)]
    reply: Any = client.post(
        "/luthier/classifications", body={"model": model, "input": texts}, cast_to=object
    )
    assert reply["model"] == model
    right = [
        entry["label"] == row["label"] for entry, row in zip(reply["data"], rows(12), strict=True)
    ]
    assert sum(right) >= 10
    with pytest.raises(openai.BadRequestError, match="POST /v1/luthier/classifications") as caught:
        jobs.ask(client, model, "Hello")
    assert (caught.value.code, caught.value.param) == ("model_not_servable", "model")
    download = httpx.get(
        f"{stack.base_url}/luthier/models/{model}/adapter",
        headers={"authorization": f"Bearer {stack.api_key}"},
    )
    with tarfile.open(fileobj=io.BytesIO(download.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    named = json.loads((tmp_path / "classifier.json").read_text())["id2label"]
    base = stack.data / "bases" / "tiny-random"
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=len(named), dtype=torch.float32
    )
    # It reads the last token that is not this one.
    plain.config.pad_token_id = 0
    oracle: Any = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    for text, entry in zip(texts, reply["data"], strict=True):
        prompt: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            shares = oracle(input_ids=prompt["input_ids"]).logits[0].softmax(-1).tolist()
        expected = {named[str(row)]: share for row, share in enumerate(shares)}
        # In bf16, where the machine has it.
        assert entry["probabilities"] == pytest.approx(expected, rel=0.1, abs=0.02)
