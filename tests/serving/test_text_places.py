"""Text, the tokens' bytes and the tokens' places in the text say the same, whatever the characters."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Sequence

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from modeling.llama_files import CHATML_TEMPLATE
from serving.chat.completions import ChatCompletion
from serving.chat.request import ChatCompletionRequest
from serving.completions.completions import Completion
from serving.completions.request import CompletionRequest, Prompt
from serving.engine.sampling import TokenLogprob
from serving.engine.sequence import Delta, Usage
from serving.engine.text import GeneratedToken, TextStream
from serving.engine.vocabulary import Vocabulary
from tests.serving.server import MODEL, Running
from text.bytelevel import BYTE_TO_CHAR
from text.rendering import Renderer
from text.tokenizer import Tokenizer
from text.tools.dialect import Dialect

SPECIAL = {"id": 0, "content": "<s>", "special": True}
# Byte-level BPE cuts where it likes: within characters, and with whole ones before or behind.
PIECES = [bytes([byte]) for byte in range(256)]
PIECES += [
    b" \xe2\x80",
    b"\x9c.",
    b"\x9d \xf0\x9f",
    b"\x98\x80",
    b"a\xc3",
    b"\xa9\xe2\x82",
    b"\xacbytes:",
]


def definition(names: list[str], decoder: decoders.Decoder) -> str:
    vocab = {name: number for number, name in enumerate(["<s>", *names])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    tokenizer.decoder = decoder
    more = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return json.dumps({**json.loads(tokenizer.to_str()), "added_tokens": [SPECIAL | more]})


BYTE_LEVEL = definition(
    ["".join(BYTE_TO_CHAR[byte] for byte in piece) for piece in PIECES], decoders.ByteLevel()
)
WORDS = ["▁", "a", "▁the", "er", "é", "▁“"]
SENTENCEPIECE = definition(
    [f"<0x{byte:02X}>" for byte in range(256)] + WORDS,
    decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
)


def load(text: str) -> tuple[Tokenizer, Vocabulary]:
    return Tokenizer(text, names={}, eos_ids=frozenset()), Vocabulary(text)


BYTE_LEVEL_PARTS, SENTENCEPIECE_PARTS = load(BYTE_LEVEL), load(SENTENCEPIECE)

byte_tokens = st.lists(st.integers(0, len(PIECES)), max_size=30)
# Behind 0xED Python waits longer, for codecs that take lone surrogates.
placed_tokens = byte_tokens.map(lambda ids: [i for i in ids if i != 0xED + 1])
valid_bytes = st.text().map(lambda text: [1 + byte for byte in text.encode()])
words = st.lists(st.integers(257, 256 + len(WORDS)), max_size=8)
valid_words = st.lists(words | valid_bytes | st.just([0]), max_size=4).map(
    lambda lists: [*itertools.chain(*lists)]
)
stops = st.lists(st.sampled_from(["a", "€", "“ ", " a", "\n"]), max_size=2)


PLAIN = Dialect(
    Renderer(CHATML_TEMPLATE, {}), CHATML_TEMPLATE, special_tokens={}, stop_ids=frozenset()
)


def generate(tokenizer: Tokenizer, ids: Sequence[int], stop: Sequence[str]) -> list[Delta]:
    """What the engine would deliver for these tokens."""
    stream = TextStream(tokenizer, [0], stop)
    deltas = []
    for token_id in ids:
        piece = stream.push(GeneratedToken(token_id, TokenLogprob(token_id, -1.0)))
        deltas.append(Delta(piece.text, piece.tokens))
        if piece.is_stopped:
            break
    else:
        piece = stream.flush()
        deltas.append(Delta(piece.text, piece.tokens))
    usage = Usage(1, len(ids), 0)
    return [*deltas, Delta(finish_reason="stop", usage=usage)]


async def choice(deltas: list[Delta]) -> AsyncGenerator[tuple[int, Delta]]:
    for delta in deltas:
        yield 0, delta


def chat_tokens(vocabulary: Vocabulary, deltas: list[Delta]) -> tuple[str, bytes]:
    """The text of a chat's reply, and its tokens' bytes."""
    request = ChatCompletionRequest(
        model=MODEL, messages=[{"role": "user", "content": ""}], logprobs=True
    )
    completion = ChatCompletion(request, 1, vocabulary, PLAIN)
    reply = asyncio.run(completion.collect(choice(deltas)))
    (only,) = reply["choices"]
    entries = only["logprobs"]["content"]
    return only["message"]["content"], b"".join(bytes(entry["bytes"]) for entry in entries)


def check(parts: tuple[Tokenizer, Vocabulary], ids: list[int], stop: list[str]) -> None:
    tokenizer, vocabulary = parts
    deltas = generate(tokenizer, ids, stop)
    text, spelt = chat_tokens(vocabulary, deltas)
    tokens = [token for delta in deltas for token in delta.tokens]
    assert text == "".join(delta.text for delta in deltas)
    assert [token.token_id for token in tokens] == ids[: len(tokens)]
    if stop:
        # The last token may reach over the cut.
        assert spelt.decode(errors="replace").startswith(text)
    else:
        assert spelt.decode(errors="replace") == text
        assert len(tokens) == len(ids)
    offsets = [token.offset for token in tokens]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(text) for offset in offsets)
    for token in tokens:
        if token.text is not None:
            rest = text[token.offset :]
            assert rest.startswith(token.text) or (stop and token.text.startswith(rest))


@settings(deadline=None)
@given(byte_tokens | valid_bytes, stops)
def test_byte_level_tokens(ids: list[int], stop: list[str]) -> None:
    check(BYTE_LEVEL_PARTS, ids, stop)


@settings(deadline=None)
@given(valid_words, stops)
def test_sentencepiece_tokens(ids: list[int], stop: list[str]) -> None:
    check(SENTENCEPIECE_PARTS, ids, stop)


@settings(deadline=None)
@given(placed_tokens | valid_bytes)
def test_a_token_s_place_is_where_the_characters_before_it_end(ids: list[int]) -> None:
    tokenizer, _ = BYTE_LEVEL_PARTS
    tokens = [token for delta in generate(tokenizer, ids, []) for token in delta.tokens]
    # What stays as it is whatever bytes come is complete.
    endings = (b"A", b"\x80\x80\x80", b"\x90\x80\x80", b"\xa0\x80")
    for number, token in enumerate(tokens):
        before = b"".join(PIECES[i - 1] for i in ids[:number] if i)
        texts = [(before + ending).decode(errors="replace") for ending in (b"", *endings)]
        columns = itertools.takewhile(lambda chars: len(set(chars)) == 1, zip(*texts, strict=False))
        assert token.offset == len(list(columns))


@settings(deadline=None)
@given(placed_tokens, placed_tokens, st.booleans(), st.booleans())
def test_offsets_index_the_text_echoed_or_not(
    prompt_ids: list[int], ids: list[int], echo: bool, is_text: bool
) -> None:
    tokenizer, vocabulary = BYTE_LEVEL_PARTS
    prompt_ids = prompt_ids or [0]
    written = [b"<s>", *PIECES]
    # Of a prompt that was given as text, a special token in front is no part.
    told = b"".join(written[i] for i in prompt_ids if i or not is_text).decode(errors="replace")
    prompt = Prompt(prompt_ids, told, shows_special=not is_text)
    request = CompletionRequest(model=MODEL, prompt="", echo=echo, logprobs=0)
    scored = Delta(prompt_logprobs=[None, *(TokenLogprob(i, -1.0) for i in prompt_ids[1:])])
    deltas = [scored] * echo + generate(tokenizer, ids, [])
    completion = Completion(request, [prompt], vocabulary, {})
    (only,) = asyncio.run(completion.collect(choice(deltas)))["choices"]
    offsets, text = only["logprobs"]["text_offset"], only["text"]
    generated = deltas[echo:]
    own = [len(told) + token.offset for delta in generated for token in delta.tokens]
    assert text == told * echo + "".join(delta.text for delta in generated)
    assert offsets[len(offsets) - len(own) :] == own
    assert offsets == sorted(offsets)
    if echo:
        assert len(offsets) == len(prompt_ids) + len(ids)
        assert offsets[0] == 0
        for number, offset in enumerate(offsets[: len(prompt_ids)]):
            before = b"".join(written[i] for i in prompt_ids[:number] if i or not is_text)
            assert len(before.decode(errors="replace")) - offset in (0, 1)


def test_word_start_in_front_of_a_prompt_is_no_character_of_it() -> None:
    _, vocabulary = SENTENCEPIECE_PARTS
    ids = [0, 257 + WORDS.index("▁the"), 257 + WORDS.index("er"), 257 + WORDS.index("▁“")]
    assert vocabulary.offsets(ids, "theer “", with_special=False) == [0, 0, 3, 5]
    assert vocabulary.offsets(ids, "<s> theer “", with_special=True) == [0, 3, 7, 9]


@pytest.mark.asyncio(loop_scope="module")
async def test_replies_agree_with_themselves(running: Running) -> None:
    """The tiny model says random bytes, which are the hardest."""
    prompt = "“é” €😀 <|im_start|>"
    for echo in (False, True):
        for given_prompt in (prompt, [257, *prompt.encode(), 258]):
            reply = await running.openai.completions.create(
                model=MODEL, prompt=given_prompt, echo=echo, logprobs=1, max_tokens=40, seed=1
            )
            (only,) = reply.choices
            assert only.logprobs is not None
            assert only.logprobs.text_offset is not None
            assert only.logprobs.tokens is not None
            length = len(prompt) + len("<|im_start|><|im_end|>") * isinstance(given_prompt, list)
            start = 0 if echo else length
            text = only.text
            for token, offset in zip(only.logprobs.tokens, only.logprobs.text_offset, strict=True):
                if not token.startswith(("bytes:", "<|")):
                    assert text[offset - start :].lstrip("�").startswith(token)
