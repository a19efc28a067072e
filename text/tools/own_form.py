"""The form of tools on a base whose chat template knows none: written into messages of the kinds that it knows.

It is that of Hermes and Qwen, which most models have met. Rows teach it, and requests ask for it, in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from text.messages import Message

from .json_calls import JsonCalls
from .writing import Writing

FORMAT = JsonCalls(
    ("<tool_call>",),
    "</tool_call>",
    writing=Writing(
        before='<tool_call>\n{"name": "',
        between='", "arguments": ',
        again='}\n</tool_call>\n<tool_call>\n{"name": "',
        behind="}\n</tool_call>",
    ),
)

_BEFORE = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_BEHIND = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


@dataclass(frozen=True)
class OwnForm:
    """`has_system`, `has_results`: the template shows messages of a system, and of a tool."""

    has_system: bool
    has_results: bool

    def written(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> list[Message]:
        """The messages with tools, calls and results as texts; each turn of the assistant stays one."""
        written: list[Message] = []
        was_result = False
        for message in messages:
            is_result = message["role"] == "tool" and not self.has_results
            if is_result:
                text = f"<tool_response>\n{message['content']}\n</tool_response>"
                if was_result:
                    # Templates may want users and assistants to take turns.
                    text = f"{written.pop()['content']}\n{text}"
                written.append({"role": "user", "content": text})
            else:
                written.append(_with_calls_as_text(message))
            was_result = is_result
        return self._with_tools(written, tools) if tools else written

    def _with_tools(self, messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
        offer = _BEFORE + "\n".join(_json(tool) for tool in tools) + _BEHIND
        first = messages[0]
        if first["role"] in ("system", "developer"):
            text = f"{first['content']}\n\n{offer}" if first["content"] else offer
            return [{**first, "content": text}, *messages[1:]]
        if self.has_system:
            return [{"role": "system", "content": offer}, *messages]
        if first["role"] == "user":
            return [{**first, "content": f"{offer}\n\n{first['content']}"}, *messages[1:]]
        return [{"role": "user", "content": offer}, *messages]


def _with_calls_as_text(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [message["content"]] if message["content"] else []
    for call in calls:
        function = call["function"]
        arguments = function.get("arguments")
        # What is no JSON goes back as it came.
        written = arguments if isinstance(arguments, str) else _json(arguments or {})
        name = _json(function["name"])
        texts.append(f'<tool_call>\n{{"name": {name}, "arguments": {written}}}\n</tool_call>')
    rest = {k: v for k, v in message.items() if k != "tool_calls"}
    return {**rest, "content": "\n".join(texts)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
