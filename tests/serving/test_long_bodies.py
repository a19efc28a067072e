"""Long and hostile bodies: refused at the first error, by their length, and away from the event loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from foundation.invalid_parameters import MAX_PROPERTIES
from serving.chat.request import ChatCompletionRequest
from serving.completions.request import CompletionRequest
from tests.serving.server import HELLO, MODEL, Running
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_ENTRIES = 20_000
HOSTILE: dict[str, Any] = {
    "numbers": [1.5] * NUM_ENTRIES,
    "whole numbers": [1] * NUM_ENTRIES,
    "texts": ["x"] * NUM_ENTRIES,
    "objects": [{}] * NUM_ENTRIES,
    "arrays": [[]] * NUM_ENTRIES,
    "mixed": ["x", 1, None] * NUM_ENTRIES,
    "object": {f"k{i}": "x" for i in range(NUM_ENTRIES)},
    "object of objects": {f"k{i}": {} for i in range(NUM_ENTRIES)},
}
FIELDS = [
    (model, field)
    for model in (ChatCompletionRequest, CompletionRequest)
    for field in model.model_fields
]


def num_errors(model: type[BaseModel], body: dict[str, Any]) -> int:
    try:
        model.model_validate(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("model", "field"), FIELDS)
async def test_the_first_error_is_enough(model: type[BaseModel], field: str) -> None:
    """However many entries are wrong, no more than a few are told of."""
    for value in [*HOSTILE.values(), {"grammar": HOSTILE["object"]}]:
        body: dict[str, Any] = {"model": "m", "messages": HELLO, "prompt": "p", field: value}
        assert num_errors(model, body) <= 3


async def test_wrong_biases_are_told_of_up_to_the_most_that_are_allowed() -> None:
    for num, expected in ((MAX_PROPERTIES, MAX_PROPERTIES), (MAX_PROPERTIES + 1, 1)):
        bias = {str(i): "x" for i in range(num)}
        body = {"model": "m", "prompt": "p", "logit_bias": bias}
        assert num_errors(CompletionRequest, body) == expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": [1] * 400_000}, "messages.0", "invalid_type"),
        ({"messages": HELLO, "logit_bias": {str(i): "x" for i in range(100_000)}}, "logit_bias", "object_above_max_properties"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 30}] * 100}]}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": ""}] * 2049}, "messages", "context_length_exceeded"),
        ({"prompt": "x" * 3000}, "messages", "context_length_exceeded"),
        ({"prompt": ["a", "x" * 3000]}, "messages", "context_length_exceeded"),
        ({"prompt": [1] * 3000}, "messages", "context_length_exceeded"),
        ({"prompt": [-1]}, "prompt", None),
        ({"prompt": [[1], [2**63]]}, "prompt", None),
        ({"prompt": ["x"] * 2049}, "prompt", None),
    ],
)  # fmt: skip
async def test_what_cannot_be_taken_is_refused_before_it_is_tokenised(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    body: dict[str, Any],
    param: str,
    code: str | None,
) -> None:
    tokenised: list[str] = []
    encode = Tokenizer.encode

    def watched(self: Tokenizer, text: str, *more: Any, **options: Any) -> list[int]:
        tokenised.append(text)
        return encode(self, text, *more, **options)

    monkeypatch.setattr(Tokenizer, "encode", watched)
    path = "completions" if "prompt" in body else "chat/completions"
    reply = await running.http.post(f"/v1/{path}", json={"model": MODEL, **body})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert sum(map(len, tokenised)) <= 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"null", b'{"model": NaN}', b'{"model": "\\ud800"}', b"[" * 100_000, b"\xff"],
)  # fmt: skip
async def test_what_is_no_json_object_is_refused(running: Running, content: bytes) -> None:
    for path in ("completions", "chat/completions"):
        reply = await running.http.post(
            f"/v1/{path}", content=content, headers={"content-type": "application/json"}
        )
        assert reply.status_code == 400
        assert "JSON body of your request" in reply.json()["error"]["message"]


async def test_long_texts_are_rendered_off_the_event_loop(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    render, encode = ChatTemplate.render, Tokenizer.encode_prompt

    def rendered(self: ChatTemplate, *more: Any, **options: Any) -> list[int]:
        threads.append(threading.current_thread().name)
        return render(self, *more, **options)

    def encoded(self: Tokenizer, text: str) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(self, text)

    monkeypatch.setattr(ChatTemplate, "render", rendered)
    monkeypatch.setattr(Tokenizer, "encode_prompt", encoded)
    monkeypatch.setattr("serving.text_threads.SHORT_BYTES", 100)
    message = {"role": "user", "content": "x" * 200}
    for path, asked in (
        ("chat/completions", {"messages": [message]}),
        ("completions", {"prompt": ["x" * 200, "y"]}),
        # Many short ones are a long text, too.
        ("completions", {"prompt": ["x" * 30] * 4}),
        ("completions", {"prompt": "y"}),
    ):
        body = {"model": MODEL, "max_tokens": 1, **asked}
        assert (await running.http.post(f"/v1/{path}", json=body)).status_code == 200
    assert [name.startswith("text") for name in threads] == [True] * 7 + [False]
