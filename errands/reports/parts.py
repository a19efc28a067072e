"""What is known of the report at hand, kept as it comes: answers in pieces, and sections that are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from errands.errands import Errands
from foundation.crash_points import crash_point
from storage.reports import parts
from storage.reports.parts import DONE, ReportPartRow
from storage.reports.reports import BLOB_PREFIX, ReportRow

from .lease import ReportLease

MAX_TEXT_CHARS = 65_536
"""Of an answer; what is behind it is not kept."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """What a model answered to a question, or why it did not."""

    key: str
    """The question's."""
    text: str = ""
    tool_calls: list[Json] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    """From being asked to being there, its wait for a turn included."""
    logprobs: list[float] = field(default_factory=list)
    """Of the tokens that the question was about, if it was about those that it had itself."""
    error: str | None = None


class ReportParts:
    """Of the report that is held; read when it is taken, and added to."""

    def __init__(self, errands: Errands, lease: ReportLease) -> None:
        self._errands = errands
        self._lease = lease
        with errands.sessions() as session:
            self._rows = parts.of_report(session, lease.report.id)

    def section(self, name: str) -> Json | None:
        """What it found, if it is done."""
        row = next((r for r in self._rows if (r.section, r.number) == (name, DONE)), None)
        return None if row is None else orjson.loads(self._read(row))

    def answers(self, name: str) -> dict[str, Answered]:
        """Those that a section has been given, by their keys."""
        lines = (
            line
            for row in self._rows
            if row.section == name and row.number != DONE
            for line in self._read(row).splitlines()
        )
        found = (Answered(**orjson.loads(line)) for line in lines)
        return {answered.key: answered for answered in found}

    def keep_section(self, name: str, found: Json) -> None:
        """It is done. Raises LostLease."""
        self._keep(name, DONE, orjson.dumps(found))

    def keep_answers(self, name: str, answers: Sequence[Answered]) -> None:
        """Raises LostLease."""
        number = 1 + max((r.number for r in self._rows if r.section == name), default=DONE)
        self._keep(name, number, b"\n".join(orjson.dumps(asdict(each)) for each in answers))

    def _keep(self, section: str, number: int, content: bytes) -> None:
        report, token = self._lease.report, self._lease.claim.lease_token
        # The token: a process that has lost the report must not write over its successor's part.
        key = f"{BLOB_PREFIX}{report.id}/{token}-{section}-{number}"
        with self._errands.blobs.writer(key) as writer:
            writer.write(content)
            blob = writer.commit()
        crash_point("before_part_commit")
        # Getting this far is progress, so the count of crashes starts anew.
        values: dict[str, Any] = {"crashes": 0}
        if number != DONE:
            values["num_answers"] = ReportRow.num_answers + content.count(b"\n") + 1
        self._lease.write(
            lambda session: parts.add(session, report.id, section, number, blob), **values
        )
        row = ReportPartRow(
            report_id=report.id,
            section=section,
            number=number,
            key=blob.key,
            size_bytes=blob.size_bytes,
            sha256=blob.sha256,
        )
        self._rows.append(row)
        crash_point("after_part_commit")

    def _read(self, row: ReportPartRow) -> bytes:
        chunks = self._errands.blobs.read(row.key, size_bytes=row.size_bytes, sha256=row.sha256)
        return b"".join(chunks)
