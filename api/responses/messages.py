"""Items as a chat's messages: what the model said, thought and called in one turn is one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foundation.errors import InvalidRequest

from .items import Item

Message = dict[str, Any]


def of_items(instructions: str | None, items: Sequence[Item]) -> list[Message]:
    """Raises InvalidRequest for an output that answers no call, and a call that has no output."""
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    _check_calls(items)
    for item in items:
        _READ[item["type"]](item, messages)
    for message in messages:
        if message["role"] == "assistant":
            message.setdefault("content", None if "tool_calls" in message else "")
    return messages


def shortened(messages: Sequence[Message]) -> list[Message] | None:
    """Without about a quarter of what stands at the beginning, the instructions stay; None if only the last message is
    left. What answers a call goes with the call."""
    kept = [m for m in messages if m["role"] in ("system", "developer")]
    rest = [m for m in messages if m["role"] not in ("system", "developer")]
    if len(rest) <= 1:
        return None
    rest = rest[max(1, len(rest) // 4) :]
    while len(rest) > 1 and rest[0]["role"] == "tool":
        rest = rest[1:]
    return None if rest[0]["role"] == "tool" else kept + rest


def _check_calls(items: Sequence[Item]) -> None:
    called, answered = set(), set()
    for item in items:
        if item["type"] == "function_call":
            called.add(item["call_id"])
        elif item["type"] == "function_call_output":
            if item["call_id"] not in called:
                raise InvalidRequest(
                    f"No tool call found for function call output with call_id {item['call_id']}.",
                    param="input",
                )
            answered.add(item["call_id"])
    for call_id in sorted(called - answered):
        raise InvalidRequest(f"No tool output found for function call {call_id}.", param="input")


def _add_message(item: Item, messages: list[Message]) -> None:
    texts = "".join(part["text"] for part in item["content"] if "text" in part)
    if item["role"] != "assistant":
        messages.append({"role": item["role"], "content": texts})
        return
    message = _of_assistant(messages, new_if=("content", "tool_calls"))
    message["content"] = texts
    for part in item["content"]:
        if part["type"] == "refusal":
            message["refusal"] = (message.get("refusal") or "") + part["refusal"]


def _add_call(item: Item, messages: list[Message]) -> None:
    function = {"name": item["name"], "arguments": item["arguments"]}
    call = {"id": item["call_id"], "type": "function", "function": function}
    _of_assistant(messages).setdefault("tool_calls", []).append(call)


def _add_output(item: Item, messages: list[Message]) -> None:
    output = item["output"]
    text = output if isinstance(output, str) else "".join(part["text"] for part in output)
    messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})


def _add_reasoning(item: Item, messages: list[Message]) -> None:
    text = "".join(part["text"] for part in item["content"] or item["summary"])
    if text:
        _of_assistant(messages, new_if=("content", "tool_calls"))["reasoning_content"] = text


_READ = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
    "reasoning": _add_reasoning,
}


def _of_assistant(messages: list[Message], new_if: Sequence[str] = ()) -> Message:
    """The message of the turn that goes on: thoughts, a reply, and the calls that follow, in this order."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or any(name in last for name in new_if):
        messages.append({"role": "assistant"})
    return messages[-1]
