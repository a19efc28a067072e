"""How templates of the families that are about show tools and calls, written for the tokens of tiny-random.

What they say around it is shortened, and turns end as ChatML's do.
"""

from __future__ import annotations

from dataclasses import dataclass

from modeling.llama_files import CHATML_TEMPLATE
from text.tools.formats import ToolFormat
from text.tools.json_calls import JsonCalls
from text.tools.named_calls import NamedCalls
from text.tools.python_calls import PythonCalls
from text.tools.tagged_calls import TaggedCalls


@dataclass(frozen=True)
class Known:
    source: str
    form: ToolFormat
    has_several: bool = True
    """Several calls in a turn, and a text before them."""


_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_TOOLS = "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
_PLAIN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"


def _family(calls: str, *, content: str = "{{ m.content }}") -> str:
    return (
        _TOOLS + "{% for m in messages %}{% if m.tool_calls %}<|im_start|>assistant\n" + content + calls
        + "<|im_end|>\n{% else %}" + _PLAIN + "{% endif %}{% endfor %}" + _PROMPT
    )  # fmt: skip


def _each(call: str, between: str = "") -> str:
    between = f"{{% if not loop.last %}}{between}{{% endif %}}" if between else ""
    return "{% for c in m.tool_calls %}" + call + between + "{% endfor %}"


_OBJECT = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
_REFUSES_LONG_IDS = (
    "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be "
    "alphanumeric strings with length 9!') }}{% endif %}{% endfor %}"
)

TOOLS_KNOWN = {
    # As in Qwen2.5 and Qwen3: results of several calls are one turn of the user's.
    "qwen": Known(
        _TOOLS
        + """{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
        JsonCalls(("<tool_call>",), "</tool_call>"),
    ),
    "llama 3": Known(
        _family(
            "{% if m.tool_calls | length != 1 %}{{ raise_exception('This model only supports single tool-calls at "
            "once!') }}{% endif %}"
            + _each('{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'),
            content="",
        ),
        JsonCalls(("<|python_tag|>",), "", is_bare=True, arguments_key="parameters"),
        has_several=False,
    ),
    "pythonic": Known(
        _family(
            "[" + _each(
                "{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v | tojson }}"
                "{{ ', ' if not loop.last }}{% endfor %})", ", "
            ) + "]",
            content="{% if m.content %}{{ m.content }}{% endif %}<|python_tag|>",
        ),
        PythonCalls(("<|python_tag|>",), ""),
    ),
    "mistral 7b v0.3": Known(
        _family(
            _REFUSES_LONG_IDS + "[TOOL_CALLS] ["
            + _each(
                '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}',
                ", ",
            )
            + "]"
        ),
        JsonCalls(("[TOOL_CALLS]",), "", is_list=True),
    ),
    "mistral small 3.2": Known(
        _family(_each("[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]{{ c.function.arguments | tojson }}")),
        NamedCalls(("[TOOL_CALLS]",), ("[CALL_ID]", "[ARGS]"), "[TOOL_CALLS]", ""),
    ),
    "mistral large 3": Known(
        _family(_each("[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}")),
        NamedCalls(("[TOOL_CALLS]",), ("[ARGS]",), "[TOOL_CALLS]", ""),
    ),
    # With the arguments as text, in a fence of their own.
    "deepseek v3": Known(
        _family(
            "<calls>"
            + _each(
                "{{ '<call>function<sep>' + c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```</call>' }}",
                "\n",
            )
            + "</calls>"
        ),
        NamedCalls(("<calls><call>function<sep>",), ("```json",), "```</call><call>function<sep>", "```</call></calls>"),
    ),
    "qwen 3.5": Known(
        _family(
            _each(
                "<tool_call>\n<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}"
                "<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}"
                "</function>\n</tool_call>",
                "\n",
            ),
            content="{% if m.content %}{{ m.content }}\n\n{% endif %}",
        ),
        TaggedCalls(
            ("<tool_call>\n<function=",), ">", "<parameter=", ">", "</parameter>",
            "</function>\n</tool_call><tool_call>\n<function=", "</function>\n</tool_call>",
        ),
    ),
    "glm 4.5": Known(
        _family(
            _each(
                "<tool_call>{{ c.function.name }}\n{% for k, v in c.function.arguments | items %}"
                "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v if v is string else v | tojson }}</arg_value>\n"
                "{% endfor %}</tool_call>",
            ),
        ),
        TaggedCalls(
            ("<tool_call>",), "", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>", "</tool_call><tool_call>", "</tool_call>",
        ),
    ),
    "openai's own": Known(
        _family("<calls>" + _each("{{ c | tojson }}", "\n") + "</calls>"),
        JsonCalls(("<calls>",), "</calls>"),
    ),
}  # fmt: skip
# It refuses systems and tools, and two messages of one side in a row.
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) or m.role not in ('user', 'assistant') %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    f"{_PLAIN}{{% endfor %}}{_PROMPT}"
)
NO_TOOLS = {
    "chatml": CHATML_TEMPLATE,
    "alternates": ALTERNATES,
    "tools without calls": _TOOLS + CHATML_TEMPLATE,
    "no opening": _family(_each("{{ c.function.name }}({{ c.function.arguments | tojson }})")),
}
