from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset.checker import Checker
from text.chat_template import ChatTemplate
from text.tokenizer import Tokenizer

# A template that shows all that a row may hold.
SHOWS_ALL = (
    "{{ tools | tojson if tools }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def shows_all(tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(SHOWS_ALL, tokenizer)


@pytest.fixture
def checker(tmp_path: Path, shows_all: ChatTemplate) -> Checker:
    return Checker(tmp_path, shows_all)
