"""Tools over the whole stack: rows, a job, and the call through every way to ask for it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.e2e import jobs, test_batches
from tests.factories import jsonl
from tests.serving.chat.taught import CHAT, TOOLS


@pytest.mark.slow
def test_a_call_that_rows_teach_comes_back_through_every_door(client: openai.OpenAI) -> None:
    job = jobs.create(
        client,
        [{"messages": CHAT, "tools": TOOLS}] * 12,
        method=jobs.hyperparameters(n_epochs=7, batch_size=1, learning_rate_multiplier=3.6),
        extra_body={"tuning": {"type": "lora", "rank": 32}},
    )
    done = jobs.wait(client, job.id, timeout_s=240)
    assert done.status == "succeeded", jobs.events(client, job.id)[-3:]
    model = done.fine_tuned_model
    assert model is not None
    asked: dict[str, Any] = {
        "model": model,
        "messages": CHAT[:1],
        "tools": TOOLS,
        "temperature": 0,
        "max_tokens": 120,
    }

    reply = client.chat.completions.create(**asked, store=True)
    calls: list[Any] = list(reply.choices[0].message.tool_calls or [])
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}]
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.usage is not None
    assert reply.usage.completion_tokens < 120
    stored = client.chat.completions.retrieve(reply.id)
    assert stored.choices[0].message.tool_calls == calls

    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert [c.function.arguments for c in final.choices[0].message.tool_calls or []] == [
        calls[0].function.arguments
    ]

    tool: Any = {"type": "function", "strict": True, **TOOLS[0]["function"]}
    response = client.responses.create(
        model=model,
        input="Oslo?",
        tools=[tool],
        temperature=0,
        max_output_tokens=120,
    )
    items = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(item.arguments) for item in items] == [{"city": "Oslo"}]

    line = {"custom_id": "a", "method": "POST", "url": test_batches.CHAT, "body": asked}
    file = client.files.create(file=("requests.jsonl", jsonl([line])), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint=test_batches.CHAT, completion_window="24h"
    )
    ended = test_batches.wait(client, made.id)
    (answer,) = test_batches.lines(client, ended.output_file_id).values()
    message = answer["body"]["choices"][0]["message"]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
