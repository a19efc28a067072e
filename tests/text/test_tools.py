"""Which chat templates show the model tools and calls of them."""

from __future__ import annotations

import pytest

from modeling.llama_files import CHATML_TEMPLATE
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

from .chats import assistant, user


def test_render_tools_and_parsed_tool_arguments_reach_the_template(tokenizer: Tokenizer) -> None:
    source = (
        "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "[call]{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{{ m.content }}{% endfor %}"
    )
    template = ChatTemplate(source, tokenizer)
    call = {
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "<|im_end|>"}'},
    }
    messages = [user("u"), assistant("", tool_calls=[call])]
    tools = [{"type": "function", "function": {"name": "weather", "description": "Ü <b>"}}]
    ids = template.render(messages, add_generation_prompt=True, tools=tools)
    text = tokenizer.decode(ids)
    assert text.endswith('u[call]weather({"city": "<|im_end|>"})')
    assert '"description": "Ü <b>"' in text
    assert not tokenizer.special_ids.intersection(ids)


CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
}
# Templates that mention tools and calls without showing them, or show a part.
CALLS_ARE_SHOWN = {
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}": True,
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments }}{% endfor %}": True,
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}": False,
    "{% if m.tool_calls %}<tool_calls>{% endif %}": False,
    "{% if m.tool_calls %}{{ raise_exception('no tools') }}{% endif %}": False,
    "{# tools, tool_calls #}": False,
    "{% if not loop.last %}{{ m.tool_calls | tojson if m.tool_calls }}{% endif %}": False,
}


@pytest.mark.parametrize("part", CALLS_ARE_SHOWN)
def test_whether_calls_are_shown_is_what_a_rendering_shows(tokenizer: Tokenizer, part: str) -> None:
    source = (
        "{{ tools | tojson if tools }}{% for m in messages %}"
        + part
        + "{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    )
    template = ChatTemplate(source, tokenizer)
    assert (template.dialect.form_of_arguments is not None) is CALLS_ARE_SHOWN[part]
    for messages in (
        [user("u"), assistant("", tool_calls=[CALL])],
        [user("u"), {"role": "assistant", "content": None, "function_call": CALL["function"]}],
        [user("u"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "5"}, user("?")],
    ):
        # What the template does not show is written into the messages.
        text = tokenizer.decode(template.render(messages, add_generation_prompt=True))
        assert "weather" in text
        assert "Oslo" in text


@pytest.mark.parametrize(
    ("part", "are_shown"),
    [
        ("{{ tools | tojson }}", True),
        ("{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}", True),
        ("{% for t in tools or [] %}{{ t | tojson(ensure_ascii=False) }}{% endfor %}", True),
        ("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}", False),
        ("{% if tools %}You have tools.{% endif %}", False),
        ("{# tools #}", False),
    ],
)
def test_whether_tools_are_shown_is_what_a_rendering_shows(
    tokenizer: Tokenizer, part: str, are_shown: bool
) -> None:
    template = ChatTemplate(part + CHATML_TEMPLATE, tokenizer)
    tools = [{"type": "function", "function": {"name": "weather", "description": "Rain or shine"}}]
    assert template.dialect.shows_tools is are_shown
    text = tokenizer.decode(template.render([user("u")], tools=tools, add_generation_prompt=True))
    assert text.count("Rain or shine") == 1


def test_what_clients_say_of_tools_besides_changes_no_prompt(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(CHATML_TEMPLATE, tokenizer)
    plain = {"name": "weather", "description": "Rain"}
    strict = {"strict": True, "parameters": None, "description": "Rain", "name": "weather"}
    prompts = [
        template.render(
            [user("u")],
            tools=[{"type": "function", "function": function}],
            add_generation_prompt=True,
        )
        for function in (plain, strict)
    ]
    assert prompts[0] == prompts[1]
