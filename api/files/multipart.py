"""`multipart/form-data` with one file, read as it arrives: no part of it is ever held whole.

The parser calls back for each piece of a part. Fields are short and collected; the file's bytes wait in
`take()` for whoever stores them. A file's name is text about the file, never a path.
"""

from __future__ import annotations

import re

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from foundation.errors import InvalidRequest

MAX_FIELD_BYTES = 4096
MAX_FIELDS = 32
MAX_NAME_BYTES = 255
MAX_CONTENT_TYPE_BYTES = 1024
"""The parser's time grows with the square of the length, and everybody waits for it meanwhile."""


def boundary_of(content_type: str) -> bytes:
    """What parts a form's parts; empty for what is no form."""
    is_short = len(content_type) <= MAX_CONTENT_TYPE_BYTES
    kind, options = parse_options_header(content_type if is_short else "")
    return options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""


class FormReader:
    """Feed it the body; `file_field` names the part that is the file."""

    def __init__(self, content_type: str, file_field: str = "file") -> None:
        boundary = boundary_of(content_type)
        if not boundary:
            raise InvalidRequest(
                "Could not parse multipart form: the request's Content-Type must be "
                "multipart/form-data with a boundary."
            )
        self._file_field = file_field
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """Set as soon as the file's part begins."""
        self.is_complete = False
        """The closing boundary was read."""
        self.num_file_bytes = 0
        """So far."""
        self._num_fields = 0
        """Those of the same name, too."""
        self._pending = bytearray()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._field: str | None = None
        """The name of the part being read; None for the file."""
        self._field_value = bytearray()
        try:
            self._parser = python_multipart.MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_begin": self._on_header_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"Could not parse multipart form: {error}.") from None

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"Could not parse multipart form: {error}.") from None

    @property
    def num_pending_bytes(self) -> int:
        """How many bytes of the file nobody took yet."""
        return len(self._pending)

    def take(self) -> bytes:
        """The file's bytes that came since the last call."""
        data = bytes(self._pending)
        self._pending.clear()
        return data

    def finish(self) -> None:
        """The body is over. Raises InvalidRequest if it ended too early."""
        if not self.is_complete:
            raise InvalidRequest("Could not parse multipart form: the body ends before its end.")

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._field = ""
        self._field_value.clear()

    def _on_header_begin(self) -> None:
        self._header_name = self._header_value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise InvalidRequest("Could not parse multipart form: a part has no name.")
        if name == self._file_field.encode():
            if self.filename is not None:
                raise InvalidRequest(
                    "Only one file may be uploaded at a time.", param=self._file_field
                )
            self._field = None
            self.filename = plain_name(options.get(b"filename", b""))
        else:
            self._field = _text(name, "name of a part")
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise InvalidRequest(f"The form has more than {MAX_FIELDS} fields.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._pending += memoryview(data)[start:end]
            self.num_file_bytes += end - start
            return
        self._field_value += data[start:end]
        if len(self._field_value) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The field is longer than {MAX_FIELD_BYTES} bytes.", param=self._field
            )

    def _on_part_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = _text(bytes(self._field_value), self._field)

    def _on_end(self) -> None:
        self.is_complete = True


def plain_name(raw: bytes) -> str:
    """A client's file name as harmless text: no folders, no control characters, at most 255 bytes."""
    text = re.split(r"[/\\]", raw.decode("utf-8", "replace"))[-1]
    text = "".join(c for c in text if c.isprintable()).strip()
    return text.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore") or "upload"


def _text(raw: bytes, param: str) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("The field is not valid UTF-8.", param=param) from None
    if "\0" in text:
        raise InvalidRequest("The field holds the character NUL.", param=param)
    return text
