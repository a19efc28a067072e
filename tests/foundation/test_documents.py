"""Plain text: what is a document, what is JSON Lines after all, and what is in no encoding that is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.documents import MAX_DOCUMENT_BYTES, SEPARATOR, BadDocument, reader_of
from foundation.jsonl import BadLine, LineReader


def texts(content: bytes, chunk_bytes: int = 1 << 16, filename: str = "a.txt") -> list[str]:
    reader = reader_of(filename)
    rows = [
        row
        for start in range(0, len(content), chunk_bytes)
        for row in reader.feed(content[start : start + chunk_bytes])
    ]
    rows += reader.close()
    assert [number for number, _ in rows] == list(range(1, len(rows) + 1))
    return [row["text"] for _, row in rows]


def problem(content: bytes, filename: str = "a.txt") -> str:
    with pytest.raises(BadLine) as caught:
        texts(content, filename=filename)
    return str(caught.value)


def test_a_file_is_one_document_or_those_between_the_lines_that_separate_them() -> None:
    assert texts(b"one\n\n  two\n") == ["one\n\n  two"]
    assert texts(b"one\r\n<|endoftext|>  \r\n\r\ntwo\r\nlines\n<|endoftext|>") == [
        "one",
        "two\nlines",
    ]
    # Elsewhere than on a line of its own it is text.
    inside = "a <|endoftext|>\n <|endoftext|> b\n<|endoftext|>c"
    assert texts(inside.encode()) == [inside]
    assert texts(b"\xef\xbb\xbfone") == ["one"]
    assert texts(b"\n \n<|endoftext|>\n") == []


@given(st.lists(st.text("ab\n <|x", min_size=1).filter(str.strip), min_size=1), st.integers(1, 30))
def test_documents_come_back_however_the_file_is_cut(
    documents: list[str], chunk_bytes: int
) -> None:
    content = f"\n{SEPARATOR}\n".join(documents).encode()
    assert texts(content, chunk_bytes) == [document.strip("\n") for document in documents]


def test_a_txt_file_of_json_objects_is_json_lines_and_every_other_file_too() -> None:
    content = b'\n{"text": "a"}\n{"text": "b"}\n'
    for chunk_bytes in (3, 1000):
        reader = reader_of("A.TXT")
        rows = [
            row
            for start in range(0, len(content), chunk_bytes)
            for row in reader.feed(content[start : start + chunk_bytes])
        ]
        assert [*rows, *reader.close()] == [(2, {"text": "a"}), (3, {"text": "b"})]
    assert texts(b'{"text": "a"}') == ["a"]
    assert texts(b"{not json}\n{}\n") == ["{not json}\n{}"]
    assert texts(b"{" * 2_000_000) == ["{" * 2_000_000]
    assert isinstance(reader_of("a.txt.jsonl"), LineReader)
    assert "invalid json" in problem(b"a text", filename="a.md")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
        ("cp1252", "WINDOWS-1252"),
    ],
)
@pytest.mark.parametrize("filename", ["a.txt", "a.jsonl"])
def test_other_encodings_are_named_with_the_way_to_convert_them(
    encoding: str, name: str, filename: str
) -> None:
    content = '{"text": "Öl für 5 €"}\n' if filename == "a.jsonl" else "Öl für 5 €\nund mehr\n"
    message = problem(content.encode(encoding), filename)
    assert f"in {name}; save it as UTF-8" in message
    assert f"`iconv -f {name} -t UTF-8 FILE > NEW_FILE`" in message


def test_what_is_in_no_known_encoding_or_no_text_is_told() -> None:
    message = problem(b"a\x81\x8d\xfe\xff" * 20)
    assert "not valid UTF-8" in message
    assert "`file -i FILE`" in message
    assert "NUL" in problem(b"text " * 20 + b"\0")


def test_a_document_without_an_end_is_refused_and_never_held() -> None:
    reader = reader_of("a.txt")
    for _ in range(4):
        assert list(reader.feed(b"x" * 1_000_000)) == []
    with pytest.raises(BadDocument, match=r"put a line <.endoftext.> between its parts"):
        list(reader.feed(b"x" * 1_000_000))
    assert list(reader.feed(b"more")) == []
    assert list(reader.close()) == []
    # Each may be as long as that.
    half = b"x" * (MAX_DOCUMENT_BYTES - 1)
    assert len(texts(half + b"\n<|endoftext|>\n" + half)) == 2
