from __future__ import annotations

import pytest

from serving.engine.sampling import TokenLogprob
from serving.engine.text import GeneratedToken, TextStream
from text.tokenizer import Tokenizer


def pieces(tokenizer: Tokenizer, text: str, stop: list[str]) -> tuple[list[str], list[int], bool]:
    """Released texts (one a byte of `text`, then the flush), released tokens, whether it was stopped."""
    stream = TextStream(tokenizer, [], stop)
    texts: list[str] = []
    tokens: list[int] = []
    for token_id in text.encode():
        piece = stream.push(GeneratedToken(token_id, TokenLogprob(token_id, -1.0)))
        texts.append(piece.text)
        tokens += [token.token_id for token in piece.tokens]
        if piece.is_stopped:
            return texts, tokens, True
    rest = stream.flush()
    texts.append(rest.text)
    tokens += [token.token_id for token in rest.tokens]
    return texts, tokens, rest.is_stopped


def test_text_without_stop_strings_is_released_at_once(tokenizer: Tokenizer) -> None:
    texts, tokens, is_stopped = pieces(tokenizer, "abc", [])
    assert texts == ["a", "b", "c", ""]
    assert bytes(tokens) == b"abc"
    assert not is_stopped


def test_character_of_several_tokens_is_released_whole(tokenizer: Tokenizer) -> None:
    texts, tokens, _ = pieces(tokenizer, "aé€", [])
    assert [t for t in texts if t] == ["a", "é", "€"]
    assert bytes(tokens) == "aé€".encode()


def test_unfinished_character_is_released_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, [], [])
    assert stream.push(GeneratedToken(0xE2, None)).text == ""
    assert stream.flush().text == "�"


def test_stop_string_across_tokens_cuts_text_and_tokens(tokenizer: Tokenizer) -> None:
    texts, tokens, is_stopped = pieces(tokenizer, "one\nEND two", ["END"])
    assert is_stopped
    assert "".join(texts) == "one\n"
    assert bytes(tokens) == b"one\n"


def test_beginning_of_a_stop_string_is_held_back_until_it_is_decided(tokenizer: Tokenizer) -> None:
    texts, tokens, is_stopped = pieces(tokenizer, "xENx", ["END"])
    assert texts == ["x", "", "", "ENx", ""]
    assert bytes(tokens) == b"xENx"
    assert not is_stopped


def test_beginning_of_a_stop_string_is_released_at_the_end(tokenizer: Tokenizer) -> None:
    texts, _, is_stopped = pieces(tokenizer, "xEN", ["END"])
    assert texts == ["x", "", "", "EN"]
    assert not is_stopped


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("abcd", ["cd", "bc"], "a"),  # "bc" is complete first
        ("abcd", ["bcd", "cd"], "a"),  # complete together: the longer one was begun first
        ("aab", ["ab"], "a"),
        ("stop", ["stop"], ""),
    ],
)
def test_the_stop_string_that_is_complete_first_wins(
    tokenizer: Tokenizer, text: str, stop: list[str], expected: str
) -> None:
    texts, _, is_stopped = pieces(tokenizer, text, stop)
    assert is_stopped
    assert "".join(texts) == expected


def test_stop_string_within_one_token_keeps_the_token_that_began_before_it() -> None:
    class OneToken:
        is_unfinished = False

        def step(self, _token_id: int) -> str:
            return "ab\n"

        def flush(self) -> str:
            return ""

    class WholeWords:
        def decode_stream(self, _prompt: list[int], **_: bool) -> OneToken:
            return OneToken()

    stream = TextStream(WholeWords(), [], ["b"])  # type: ignore[arg-type]
    piece = stream.push(GeneratedToken(1, None))
    assert (piece.text, piece.is_stopped) == ("a", True)
    assert [token.token_id for token in piece.tokens] == [1]
