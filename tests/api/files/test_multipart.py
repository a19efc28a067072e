from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api import blobs
from api.files.multipart import MAX_FIELD_BYTES, MAX_FIELDS, FormReader, plain_name
from foundation.errors import InvalidRequest

CONTENT_TYPE = "multipart/form-data; boundary=b"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    extra = f'; filename="{filename}"' if filename is not None else ""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def read(body: bytes, cut: int = 1 << 16) -> tuple[FormReader, bytes]:
    reader, file = FormReader(CONTENT_TYPE), b""
    for start in range(0, len(body), cut):
        reader.feed(body[start : start + cut])
        file += reader.take()
    reader.finish()
    return reader, file


@settings(max_examples=150, deadline=None)
@given(
    file=st.one_of(
        st.binary(max_size=300), st.text(alphabet="\r\n-b", max_size=60).map(str.encode)
    ),
    cut=st.integers(1, 50),
    purpose_first=st.booleans(),
)
def test_the_file_arrives_as_it_was_however_the_body_is_cut(
    file: bytes, cut: int, purpose_first: bool
) -> None:
    if b"\r\n--b" in b"\r\n" + file:
        return  # no client may choose a boundary that is in the file
    parts = [part("purpose", b"fine-tune"), part("file", file, "a.jsonl")]
    reader, content = read(form(*(parts if purpose_first else parts[::-1])), cut)
    assert content == file
    assert reader.num_file_bytes == len(file)
    assert reader.fields == {"purpose": "fine-tune"}
    assert reader.filename == "a.jsonl"


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"--b", b"--b--", b"\r\n", part("file", b"x"), part("a", b"1")]),
            st.sampled_from(
                [b"Content-Disposition: form-data; name=", b'"file"', b":", b"\r\n\r\n"]
            ),
        ),
        max_size=12,
    )
)
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    reader = FormReader(CONTENT_TYPE)
    try:
        for piece in pieces:
            reader.feed(piece)
        reader.finish()
    except InvalidRequest:
        return
    assert reader.is_complete


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (part("file", b"x"), "the body ends before its end"),
        (b"", "the body ends before its end"),
        (form(part("file", b"x"), part("file", b"y")), "Only one file"),
        (form(part("purpose", b"\xff")), "not valid UTF-8"),
        (form(part("purpose", b"a\0b")), "NUL"),
        (form(part("purpose", b"x" * (MAX_FIELD_BYTES + 1))), "longer than"),
        (form(*(part(f"f{i}", b"") for i in range(MAX_FIELDS + 1))), "more than 32 fields"),
        (b"--b\r\n\r\nno header\r\n--b--\r\n", "a part has no name"),
        (b"--b\r\n" + b"x: y\r\n" * 100 + b"\r\n--b--", "Maximum header count"),
        (b"--b\r\nx: " + b"y" * 100_000, "Maximum header size"),
        (b"not a form", "Could not parse multipart form"),
    ],
)
def test_a_broken_form_is_refused_in_words(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "b" * 999,
        # The parser would take more than an hour for this one.
        "multipart/form-data; boundary=b" + ";" * 10_000_000,
    ],
    ids=["none", "json", "no boundary", "long boundary", "endless"],
)
def test_other_content_types_are_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequest, match="Could not parse multipart form"):
        FormReader(content_type)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"rows.jsonl", "rows.jsonl"),
        (b"../../etc/passwd", "passwd"),
        (b"C:\\Users\\x\\rows.jsonl", "rows.jsonl"),
        (b"a\r\nSet-Cookie: x\0.jsonl", "aSet-Cookie: x.jsonl"),
        ("Übung \u202egnp.jsonl".encode(), "Übung gnp.jsonl"),
        (b"", "upload"),
        (b"..", ".."),
        ("ü".encode() * 200, "ü" * 127),
        (b"\xff.jsonl", "�.jsonl"),
    ],
)
def test_a_file_s_name_is_harmless_text(raw: bytes, name: str) -> None:
    assert plain_name(raw) == name


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=400))
def test_any_name_can_stand_in_a_header(raw: bytes) -> None:
    name = plain_name(raw)
    assert 0 < len(name.encode()) <= 255
    header = blobs.content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def test_a_name_beyond_ascii_is_told_in_both_ways() -> None:
    assert blobs.content_disposition('Maß "1".csv') == (
        "attachment; filename=\"Ma_ _1_.csv\"; filename*=UTF-8''Ma%C3%9F%20%221%22.csv"
    )
    assert blobs.content_disposition("a b.csv") == 'attachment; filename="a b.csv"'
