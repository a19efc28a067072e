"""A batch through the unmodified client: upload, create, poll, read the output."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import openai
import pytest
from openai.types import Batch

from tests.factories import jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


def request(custom_id: str, model: str = "gpt-4o-mini") -> dict[str, Any]:
    messages = [{"role": "user", "content": f"This is {custom_id}."}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def wait(client: openai.OpenAI, batch_id: str, timeout_s: float = 60) -> Batch:
    """The batch once it has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)


def lines(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """The responses by the ids of their requests."""
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({line["custom_id"] for line in found}) == len(found)
    return {line["custom_id"]: line["response"] for line in found}


@pytest.mark.slow
def test_a_batch_is_answered_by_the_models(client: openai.OpenAI) -> None:
    content = jsonl([*(request(f"line-{n}") for n in range(12)), request("lost", "gpt-unknown")])
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert file.expires_at is not None
    made = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"night": "1"}
    )
    assert made.status == "validating"
    batch = wait(client, made.id)
    assert batch.status == "completed", batch.errors
    assert batch.metadata == {"night": "1"}
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 13, "completed": 12, "failed": 1}
    output = lines(client, batch.output_file_id)
    assert output.keys() == {f"line-{n}" for n in range(12)}
    assert {response["status_code"] for response in output.values()} == {200}
    bodies = [response["body"] for response in output.values()]
    assert {body["model"] for body in bodies} == {"gpt-4o-mini"}
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(body["usage"]["prompt_tokens"] for body in bodies)
    assert batch.usage.output_tokens == sum(body["usage"]["completion_tokens"] for body in bodies)
    errors = lines(client, batch.error_file_id)
    assert errors["lost"]["status_code"] == 404
    assert errors["lost"]["body"]["error"]["code"] == "model_not_found"
    assert client.files.retrieve(batch.output_file_id or "").purpose == "batch_output"
    # It is as if they had been asked one by one.
    alone = client.chat.completions.create(**request("line-3")["body"])
    same = output["line-3"]["body"]["choices"][0]["message"]["content"]
    assert alone.choices[0].message.content == same
    assert client.batches.list(limit=1).data[0].id == batch.id
