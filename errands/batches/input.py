"""The input file of a batch: fetched, checked as a whole, and read line by line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errands.errands import Errands
from foundation.bodies import MAX_LONG_BODY_BYTES
from foundation.jsonl import BadLine, LineReader
from storage.files import files
from storage.files.files import FileRow
from storage.inference.batches import BatchRow

from .lease import BatchLease

PURPOSE = "batch"
RESPONSES = "/v1/responses"
MODERATIONS = "/v1/moderations"
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", RESPONSES, MODERATIONS)
MAX_BYTES = 200 * 1024 * 1024
MAX_LINES = 50_000
MAX_CUSTOM_ID_CHARACTERS = 512
MAX_PROBLEMS = 100
"""More would help nobody; all of them would be a row without bounds."""
_READ_BYTES = 1 << 20

Json = dict[str, Any]


class InputGone(Exception):
    """The file has been deleted, or has expired, since the batch was made."""


@dataclass(frozen=True)
class Line:
    number: int
    """1-based."""
    custom_id: str
    body: Json

    @property
    def sent(self) -> bytes:
        """The body as the api gets it."""
        return _encoded(self.body)


@dataclass
class Findings:
    """What the check of a file found out."""

    problems: list[Json] = field(default_factory=list)
    """`{code, message, param, line}`."""
    num_lines: int = 0
    models: set[str] = field(default_factory=set)

    @property
    def model(self) -> str | None:
        """The model that all lines name."""
        return (next(iter(self.models)) or None) if len(self.models) == 1 else None

    def add(
        self, code: str, message: str, param: str | None = None, line: int | None = None
    ) -> None:
        self.problems.append({"code": code, "message": message, "param": param, "line": line})

    @property
    def is_full(self) -> bool:
        return len(self.problems) >= MAX_PROBLEMS


def find(errands: Errands, batch: BatchRow) -> FileRow:
    """Raises InputGone."""
    with errands.sessions() as session:
        file = files.find(session, batch.project_id, batch.input_file_id)
    if file is None:
        raise InputGone
    return file


def fetch(errands: Errands, lease: BatchLease, file: FileRow, folder: Path) -> Path:
    """A local copy, kept alive by the lease while it comes. Raises LostLease and Stopped."""
    path = folder / "input.jsonl"
    chunks = errands.blobs.read(file.blob_key, size_bytes=file.size_bytes, sha256=file.sha256)
    with path.open("wb") as local:
        for chunk in chunks:
            local.write(chunk)
            lease.check()
    return path


def refusals(batch: BatchRow, file: FileRow | None) -> Findings:
    """What is wrong before the first line is read."""
    findings = Findings()
    if batch.endpoint not in ENDPOINTS:
        findings.add(
            "unsupported_endpoint",
            f"This server runs batches of {', '.join(ENDPOINTS)}, not of {batch.endpoint}.",
            "endpoint",
        )
    elif file is None:
        findings.add(
            "invalid_input_file",
            f"No such File object: {batch.input_file_id}",
            "input_file_id",
        )
    elif file.purpose != PURPOSE:
        findings.add(
            "invalid_input_file",
            f"The input file was uploaded with the purpose '{file.purpose}'; upload it with the "
            f"purpose '{PURPOSE}'.",
            "input_file_id",
        )
    elif file.size_bytes > MAX_BYTES:
        findings.add(
            "file_too_large",
            f"The input file has {file.size_bytes} bytes; a batch may have {MAX_BYTES}.",
            "input_file_id",
        )
    return findings


def check(path: Path, endpoint: str, lease: BatchLease) -> Findings:
    """Look at every line, until there are too many problems. Raises LostLease and Stopped."""
    findings, custom_ids = Findings(), set[str]()
    for number, value in _values(path, findings):
        lease.check()
        findings.num_lines += 1
        if findings.num_lines > MAX_LINES:
            findings.add(
                "too_many_tasks",
                f"The input file has too many lines; a batch may have {MAX_LINES}.",
                "input_file_id",
            )
            break
        problem = _problem(value, endpoint, custom_ids)
        if problem is not None:
            code, message, param = problem
            findings.add(code, message, param, number)
            if findings.is_full:
                break
            continue
        custom_ids.add(value["custom_id"])
        # Which moderation goes by where none is named is found when it is asked.
        findings.models.add(value["body"].get("model", ""))
    if not findings.num_lines and not findings.problems:
        findings.add("empty_file", "The input file holds no request.", "input_file_id")
    return findings


def lines(path: Path, answered: Collection[int] = ()) -> Iterator[Line]:
    """The lines of a checked file, without those whose numbers are given."""
    for number, value in _values(path, None):
        if number not in answered:
            yield Line(number, value["custom_id"], value["body"])


def _values(path: Path, findings: Findings | None) -> Iterator[tuple[int, Json]]:
    """All lines that are JSON objects; the others go to `findings`."""
    reader = LineReader(max_line_bytes=MAX_LONG_BODY_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            yield from _read(reader, chunk, findings)
        # A line that was refused may have others behind it.
        yield from _read(reader, b"", findings)
        try:
            yield from reader.close()
        except BadLine as error:
            _note(error, findings)


def _read(
    reader: LineReader, chunk: bytes, findings: Findings | None
) -> Iterator[tuple[int, Json]]:
    while True:
        try:
            yield from reader.feed(chunk)
            return
        except BadLine as error:
            _note(error, findings)
            chunk = b""


def _note(error: BadLine, findings: Findings | None) -> None:
    if findings is None:
        raise error
    if not findings.is_full:
        findings.num_lines += 1
        findings.add(
            "invalid_json_line",
            f"This line is not parseable as valid JSON: {error.message}",
            None,
            error.line_number,
        )


def _problem(
    value: Json, endpoint: str, custom_ids: set[str]
) -> tuple[str, str, str | None] | None:
    """Code, message and param of what is wrong with a line; None if nothing is."""
    custom_id, body = value.get("custom_id"), value.get("body")
    for name in ("custom_id", "method", "url", "body"):
        if name not in value:
            return "missing_required_parameter", f"Missing required parameter: '{name}'.", name
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        text = f"'custom_id' must be a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters."
        return "invalid_custom_id", text, "custom_id"
    if custom_id in custom_ids:
        text = f"The custom_id for this request is a duplicate of another request: {custom_id}"
        return "duplicate_custom_id", text, "custom_id"
    if value["method"] != "POST":
        return "invalid_method", "The method of a batch's request must be 'POST'.", "method"
    if value["url"] != endpoint:
        text = f"The URL of this request does not match the batch's endpoint, {endpoint}."
        return "invalid_url", text, "url"
    return _problem_of_body(body, endpoint)


def _problem_of_body(body: object, endpoint: str) -> tuple[str, str, str | None] | None:
    if not isinstance(body, dict):
        return "invalid_request", "'body' must be an object.", "body"
    needs_model = endpoint != MODERATIONS or "model" in body
    if needs_model and (not isinstance(body.get("model"), str) or not body["model"]):
        return "invalid_request", "'body.model' must be a model's name.", "body.model"
    if body.get("stream"):
        return "invalid_request", "A batch's request cannot be streamed.", "body.stream"
    if endpoint == RESPONSES and body.get("background"):
        text = "A batch's request is in the background as it is: leave 'background' out."
        return "invalid_request", text, "body.background"
    # Numbers that were written shortly may have become longer.
    num_bytes = len(_encoded(body))
    if num_bytes > MAX_LONG_BODY_BYTES:
        text = f"'body' has {num_bytes} bytes; a request may have {MAX_LONG_BODY_BYTES}."
        return "invalid_request", text, "body"
    return None


def _encoded(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
