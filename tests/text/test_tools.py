"""Which chat templates show the model tools and calls of them."""

from __future__ import annotations

import pytest

from modeling.llama_files import CHATML_TEMPLATE
from text.chat_template import ChatTemplate
from text.messages import InvalidMessages
from text.tokenizer import Tokenizer

from .chats import assistant, user


def test_render_tools_and_parsed_tool_arguments_reach_the_template(tokenizer: Tokenizer) -> None:
    source = (
        "{{ tools | tojson }}{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}{{ m.content }}{% endfor %}"
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
    assert text.endswith('uweather({"city": "<|im_end|>"})')
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
def test_shows_tool_calls_is_what_a_rendering_shows(tokenizer: Tokenizer, part: str) -> None:
    source = (
        "{% for m in messages %}" + part + "{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    )
    template = ChatTemplate(source, tokenizer)
    assert template.shows_tool_calls is CALLS_ARE_SHOWN[part]
    for messages in (
        [user("u"), assistant("", tool_calls=[CALL])],
        [user("u"), {"role": "assistant", "content": None, "function_call": CALL["function"]}],
        [user("u"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "5"}, user("?")],
    ):
        if template.shows_tool_calls:
            text = tokenizer.decode(template.render(messages, add_generation_prompt=True))
            assert "weather" in text
            assert "Oslo" in text
            continue
        for render in (
            lambda m, t=template: t.render(m, add_generation_prompt=True),
            template.tokenize_chat,
        ):
            with pytest.raises(InvalidMessages, match="does not show calls") as caught:
                render(messages)
            assert caught.value.param in ("messages[1].tool_calls", "messages[1].function_call")


@pytest.mark.parametrize(
    ("part", "are_shown"),
    [
        ("{{ tools | tojson }}", True),
        ("{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}", True),
        ("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}", False),
        ("{% if tools %}You have tools.{% endif %}", False),
        ("{# tools #}", False),
    ],
)
def test_shows_tools_is_what_a_rendering_shows(
    tokenizer: Tokenizer, part: str, are_shown: bool
) -> None:
    template = ChatTemplate(part + CHATML_TEMPLATE, tokenizer)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    assert template.shows_tools is are_shown
    if are_shown:
        assert template.render([user("u")], tools=tools, add_generation_prompt=True)
    else:
        with pytest.raises(InvalidMessages, match="shows the model no tools") as caught:
            template.tokenize_chat([user("u"), assistant("a")], tools)
        assert caught.value.param == "tools"
