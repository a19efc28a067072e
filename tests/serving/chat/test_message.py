"""What a reply of known tokens looks like on the wire, whole and streamed: thoughts, calls, usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from api.gateway.assembled_completion import AssembledCompletion
from modeling.llama_files import CHATML_TEMPLATE
from serving.chat.completions import ChatCompletion
from serving.chat.request import ChatCompletionRequest
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Delta, FinishReason, Usage
from serving.engine.text import GeneratedToken, TextStream
from serving.engine.vocabulary import Vocabulary
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

THINKS = CHATML_TEMPLATE.replace(
    "assistant\\n' }}{% endif %}", "assistant\\n<think>\\n' }}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>'
ARGUMENTS = '{"a": "b"}'


async def deltas(
    tokenizer: Tokenizer, text: str, reason: FinishReason
) -> AsyncGenerator[tuple[int, Delta]]:
    """What the engine delivers of the text, token by token."""
    stream = TextStream(tokenizer, [], ())
    ids = tokenizer.encode(text)
    for token_id in ids:
        piece = stream.push(GeneratedToken(token_id, TokenLogprob(token_id, -1.0)))
        yield 0, Delta(piece.text, piece.tokens)
    yield 0, Delta(finish_reason=reason, usage=Usage(1, len(ids), 0))


async def reply(
    base_path: Path, tokenizer: Tokenizer, source: str, text: str, reason: FinishReason, **body: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Whole, and in chunks."""
    request = ChatCompletionRequest(
        model="m", messages=[{"role": "user", "content": "u"}], logprobs=True, **body
    )
    dialect = ChatTemplate(source, tokenizer).dialect
    made = [
        ChatCompletion(request, 1, Vocabulary.load(base_path), dialect) for _ in ("whole", "chunks")
    ]
    whole = await made[0].collect(deltas(tokenizer, text, reason))
    chunks = [chunk async for chunk in made[1].stream(deltas(tokenizer, text, reason))]
    return whole, chunks


CASES: list[tuple[str, str, FinishReason, dict[str, Any], dict[str, Any], str]] = [
    (CHATML_TEMPLATE, "Hi.", "stop", {}, {"content": "Hi."}, "stop"),
    (CHATML_TEMPLATE, CALL, "stop", {}, {"content": CALL}, "stop"),
    (CHATML_TEMPLATE, CALL, "stop", {"tools": TOOLS, "tool_choice": "none"}, {"content": CALL}, "stop"),
    (CHATML_TEMPLATE, CALL, "stop", {"tools": TOOLS}, {"content": None, "tool_calls": [ARGUMENTS]}, "tool_calls"),
    (CHATML_TEMPLATE, CALL[:-15], "length", {"tools": TOOLS}, {"content": None, "tool_calls": [ARGUMENTS[:-1]]}, "length"),
    (CHATML_TEMPLATE, f"So: {CALL}", "stop", {"functions": [{"name": "f"}]}, {"content": "So:", "function_call": ARGUMENTS}, "function_call"),
    (CHATML_TEMPLATE, "", "length", {"tools": TOOLS}, {"content": ""}, "length"),
    (CHATML_TEMPLATE, "<tool_", "length", {"tools": TOOLS}, {"content": "<tool_"}, "length"),
    (THINKS, "Hm. Ü\n</think>\n\nHi.", "stop", {}, {"content": "Hi.", "reasoning_content": "Hm. Ü"}, "stop"),
    (THINKS, "Hm", "length", {"tools": TOOLS}, {"content": "", "reasoning_content": "Hm"}, "length"),
    (THINKS, f"Hm.</think>{CALL}", "stop", {"tools": TOOLS}, {"content": None, "reasoning_content": "Hm.", "tool_calls": [ARGUMENTS]}, "tool_calls"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "text", "reason", "body", "said", "finish"), CASES)
def test_what_is_said_whole_is_said_in_chunks(
    base_path: Path,
    tokenizer: Tokenizer,
    source: str,
    text: str,
    reason: FinishReason,
    body: dict[str, Any],
    said: dict[str, Any],
    finish: str,
) -> None:
    whole, chunks = asyncio.run(reply(base_path, tokenizer, source, text, reason, **body))
    assembled = AssembledCompletion(has_logprobs=True)
    for chunk in chunks:
        assembled.add(chunk)
    for choice in (whole["choices"][0], assembled.body()["choices"][0]):
        message = choice["message"]
        assert (choice["index"], choice["finish_reason"]) == (0, finish)
        assert len(choice["logprobs"]["content"]) == len(tokenizer.encode(text))
        calls = message.pop("tool_calls", None)
        if calls is not None:
            assert all(call["id"].startswith("call_") for call in calls)
            assert [call["function"]["name"] for call in calls] == ["f"]
            message["tool_calls"] = [call["function"]["arguments"] for call in calls]
        if "function_call" in message:
            assert message["function_call"]["name"] == "f"
            message["function_call"] = message["function_call"]["arguments"]
        assert message == {"role": "assistant", "refusal": None, **said}
    usage = whole["usage"]
    assert usage["completion_tokens"] == len(tokenizer.encode(text))
    thoughts = text.partition("</think>")
    of_thoughts = len(tokenizer.encode("".join(thoughts[:2]))) if source == THINKS else 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == of_thoughts


def test_thoughts_of_earlier_turns_are_taken(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(THINKS, tokenizer)
    said = {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm."}
    messages = [{"role": "user", "content": "u"}, said, {"role": "user", "content": "v"}]
    assert template.render(messages, add_generation_prompt=True)


def test_a_model_that_need_not_think_is_told_so_where_its_template_can(
    tokenizer: Tokenizer,
) -> None:
    """In the words of Qwen 3, whose prompt then holds an empty thought, and of those who begin one."""
    can = CHATML_TEMPLATE.replace(
        "assistant\\n' }}{% endif %}",
        "assistant\\n<think>\\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}",
    )
    messages = [{"role": "user", "content": "u"}]
    for source, thinks in ((can, False), (THINKS, True), (CHATML_TEMPLATE, False)):
        template = ChatTemplate(source, tokenizer)
        ends, dialects = [], []
        for effort in ("high", "none"):
            request = ChatCompletionRequest(
                model="m",
                messages=messages,
                reasoning_effort=effort,
                tools=TOOLS,
                tool_choice="required",
            )
            prompt, held, _ = request.read(template, max_seq_len=2048)
            ends.append(tokenizer.decode(prompt, skip_special=False).rpartition("assistant\n")[2])
            dialects.append(held.dialect)
        assert (ends[0] != ends[1]) == (source == can)
        assert (dialects[1].reasoning is not None) == thinks
        assert (dialects[0].reasoning is not None) == (source != CHATML_TEMPLATE)
        if source == can:
            assert ends == ["<think>\n", "<think>\n\n</think>\n\n"]
