from __future__ import annotations

from tests.client.fake_api import MODEL, FakeApi

from .conftest import Run
from .terminal import Terminal


def test_one_answer_is_printed_and_nothing_else(luthier: Run, api: FakeApi) -> None:
    result = luthier(
        *("chat", MODEL, "good day", "--system", "Be kind."),
        *("--temperature", "0", "--max-tokens", "9"),
    )
    assert result.stdout == "You said good day\n"
    ((_, body),) = api.requests
    assert body == {
        "model": MODEL,
        "stream": True,
        "temperature": 0,
        "max_completion_tokens": 9,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "good day"},
        ],
    }


def test_prompt_comes_from_a_pipe(luthier: Run) -> None:
    assert luthier("chat", MODEL, input="piped words").stdout == "You said piped words\n"


def test_unknown_model_is_one_line(luthier: Run) -> None:
    result = luthier("chat", "none", "hello")
    assert result.exit_code == 1
    assert result.stderr == "Error: The model `none` does not exist\n"


def test_conversation_remembers_and_survives_an_error(api: FakeApi) -> None:
    with Terminal(api, "chat", MODEL) as terminal:
        terminal.wait_for("> ")
        terminal.enter("first\n")
        terminal.wait_for("You said first")
        api.models.clear()
        terminal.enter("second\n")
        terminal.wait_for("does not exist")
        api.reset()
        terminal.enter("third\n")
        terminal.wait_for("You said third")
        terminal.enter("\x04")
        assert terminal.exit_code() == 0
    messages = [message["content"] for message in api.requests[-1][1]["messages"]]
    assert messages == ["first", "You said first", "third"]
