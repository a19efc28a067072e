"""What the gateway puts together from a stream is what the inference server would have sent whole."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from api.gateway.assembled_completion import AssembledCompletion, AssembledText
from tests.serving.server import HELLO, MODEL, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

FIXED = {"model": MODEL, "seed": 7, "max_tokens": 24}


async def both(running: Running, path: str, body: dict[str, Any]) -> tuple[Any, Any]:
    """The whole reply, and the stream put together; without what differs from request to request."""
    whole = (await running.http.post(path, json={**FIXED, **body})).json()
    usage = {"include_usage": True, "continuous_usage_stats": True}
    streamed = {**FIXED, **body, "stream": True, "stream_options": usage}
    completion = (
        AssembledCompletion(has_logprobs=bool(body.get("logprobs")))
        if "chat" in path
        else AssembledText()
    )
    for line in (await running.http.post(path, json=streamed)).content.splitlines():
        if line.startswith(b"data: {"):
            completion.add(orjson.loads(line.removeprefix(b"data: ")))
    assert completion.is_complete
    replies = whole, completion.body()
    for reply in replies:
        del reply["id"], reply["created"]
        # The second request finds the first one's prompt in memory.
        del reply["usage"]["prompt_tokens_details"]
    whole, assembled = (_rounded(reply) for reply in replies)
    return whole, assembled


def _rounded(value: Any) -> Any:
    """Without the last digits of log-probabilities, which depend on what else a step computed."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 3},
        {"logprobs": True, "top_logprobs": 2, "n": 2},
        {"stop": ["e", "a"]},
        {"max_tokens": 0, "logprobs": True},
    ],
    ids=str,
)
async def test_a_chat(running: Running, options: dict[str, Any]) -> None:
    whole, assembled = await both(
        running, "/v1/chat/completions", {"messages": HELLO, "temperature": 1.5, **options}
    )
    assert assembled == whole


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": ["one", "two"], "n": 2},
        {"logprobs": 2, "echo": True},
        {"logprobs": 0, "stop": "e"},
        {"echo": True, "max_tokens": 0, "logprobs": 1},
    ],
    ids=str,
)
async def test_a_text(running: Running, options: dict[str, Any]) -> None:
    whole, assembled = await both(
        running, "/v1/completions", {"prompt": "one", "temperature": 1.5, **options}
    )
    assert assembled == whole
