"""What a client may send as a training file or as a form, right, almost right, and wrong."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from .test_multipart import CONTENT_TYPE, part

FITTING = CONTENT_TYPE.encode()

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
# json.dumps writes NaN and Infinity, and escapes halves of surrogate pairs.
OBJECTS = st.builds(
    lambda value, is_ascii: json.dumps(value, ensure_ascii=is_ascii).encode(
        "utf-8", "surrogatepass"
    ),
    st.dictionaries(st.text(st.characters(), max_size=4), JSON, max_size=3),
    st.booleans(),
)
ODD_LINES = st.sampled_from(
    [
        b"",
        b" \t",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": -0.0e-999}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\u0000"}',
        b'{"a": "\0"}',
        b'{"a": 1, "a": 1}',
        b'{"\\u0061": 1, "a": {}}',
        b'{"a": 1} {"b": 2}',
        b'{"a": 1,}',
        b"{'a': 1}",
        b'{"a": 1',
        b"[]",
        b"null",
        b'"a"',
    ]
) | st.builds(
    lambda start, middle, end, count: start + middle * count + end,
    st.sampled_from([b'{"a": "', b'{"a": ', b"", b"["]),
    st.sampled_from([b"x", b"9", b"[", b'{"a":', b"\\ud83d", b" ", "\U0001f600".encode()]),
    st.sampled_from([b'"}', b"}", b""]),
    st.sampled_from([1, 63, 65, 5000, 60_000]),
)
JSONL = st.builds(
    lambda lines, newline, is_ended: newline.join(lines) + (newline if is_ended else b""),
    st.lists(OBJECTS | ODD_LINES, max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r", "\u2028".encode()]),
    st.booleans(),
)


NAMES = st.sampled_from(
    [
        *(b'"file"', b'"data"', b'"purpose"', b"file", b"", b'""', b'"', b'"fi\\"le"', b'"file\0"'),
        *(b'"expires_after[anchor]"', b'"expires_after[seconds]"', b'"\xff"', b'"' + b"n" * 5000),
    ]
)
FILENAMES = st.none() | st.sampled_from(
    [
        *(
            b'"a.jsonl"',
            b'""',
            b'"../../etc/passwd"',
            b'"C:\\a\\b"',
            b'"a\\"b;c=d"',
            b'"a"b"',
            b'"',
        ),
        *(b'"\0"', b'"a\rb"', b'"\xc3\xbc \xe2\x80\xae"', b'"\xff"', b'"' + b"n" * 2000 + b'"'),
        *(b'"a"; filename="b"', b"\"a\"; filename*=UTF-8''b", b'"a"; filename*0=b; filename*=c'),
    ]
)
HEADERS = st.sampled_from(
    [
        *(b"", b"", b"", b"Content-Type: text/plain\r\n", b"content-disposition: attachment\r\n"),
        *(b"Content-Transfer-Encoding: base64\r\n", b"x\r\n", b": y\r\n", b"x:\r\n", b"x: \0\r\n"),
        *(b" folded: x\r\n y\r\n", b"x: y\n", b"x: " + b"y" * 9000 + b"\r\n", b"x: y\r\n" * 30),
    ]
)
VALUES = st.binary(max_size=30) | st.sampled_from(
    [
        *(b"fine-tune", b"user_data", b"created_at", b"3600", b"9" * 4000, b"-1", b"3600.5", b""),
        *(b'{"a": 1}\n', b"\0", b"\xff", b"\r\n--b", b"--b--", b"x" * 5000, b"\r\n" * 20),
    ]
)


def odd_part(
    name: bytes, filename: bytes | None, header: bytes, value: bytes, is_late: bool
) -> bytes:
    disposition = b"Content-Disposition: form-data; name=" + name
    if filename is not None:
        disposition += b"; filename=" + filename
    disposition += b"\r\n"
    head = header + disposition if is_late else disposition + header
    return b"--b\r\n" + head + b"\r\n" + value + b"\r\n"


GOOD_PARTS = st.sampled_from(
    [
        part("purpose", b"fine-tune"),
        part("purpose", b"user_data"),
        part("file", b'{"a": 1}\n', "a.jsonl"),
        part("data", b"some data", "blob"),
    ]
)
BODIES = st.builds(
    lambda start, parts, end: start + b"".join(parts) + end,
    st.sampled_from([b"", b"", b"", b"\r\n", b"preamble\r\n", b"--", b"\0"]),
    st.lists(
        GOOD_PARTS
        | st.builds(odd_part, NAMES, FILENAMES, HEADERS, VALUES, st.booleans())
        | st.binary(max_size=20),
        max_size=5,
    ),
    st.sampled_from(
        [b"--b--\r\n"] * 3 + [b"--b--", b"--b-", b"--b\r\n", b"", b"--c--", b"--b--x" * 9]
    ),
)
# Most are what fits the bodies, so that what is inside them is read at all.
CONTENT_TYPES = st.sampled_from(
    [FITTING] * 8
    + [
        b'multipart/form-data; boundary="b"',
        b"Multipart/Form-Data; Boundary=b",
        b"multipart/form-data; boundary=c",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary="',
        b"multipart/form-data; boundary=b; boundary=c",
        b"multipart/form-data; boundary*0=b; boundary*=c; boundary*" + b"9" * 5000 + b"=d",
        b"multipart/form-data; boundary=\xff",
        b"multipart/form-data;" + b";" * 1000 + b"=" * 1000,
        b"multipart/form-data",
        b"multipart/mixed; boundary=b",
        b"application/json",
        b";",
    ]
)
