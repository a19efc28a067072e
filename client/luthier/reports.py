"""What a job's tuning did: the report that the server makes once the job has succeeded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

if TYPE_CHECKING:
    from openai import OpenAI

Json = dict[str, Any]

_SHOWN_CHARS = 100


class ReportNotReady(Exception):
    """The report is still being made; the text says how far it is."""


class Reports:
    def __init__(self, client: OpenAI) -> None:
        self._client = client

    def retrieve(self, job_id: str) -> Json:
        """The report. Raises ReportNotReady while it is being made, and `openai.APIStatusError` where there is none."""
        found: Json = self._client.get(_path(job_id), cast_to=dict[str, Any])
        if found.get("status") == "in_progress":
            raise ReportNotReady(_how_far(found))
        return found

    def wait(self, job_id: str, *, timeout_s: float = 3600.0, poll_s: float = 2.0) -> Json:
        """Likewise, but waits for it. Raises ReportNotReady when that takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self.retrieve(job_id)
            except ReportNotReady:
                if time.monotonic() > deadline:
                    raise
            time.sleep(poll_s)

    def html(self, job_id: str) -> str:
        """One page that opens anywhere. Of a report that is there."""
        return self._client.get(_path(job_id, ".html"), cast_to=str)

    def make(self, job_id: str, depth: Literal["auto", "full"] = "auto") -> None:
        """Have it made, or made anew."""
        self._client.post(_path(job_id), body={"depth": depth}, cast_to=dict[str, Any])

    def delete(self, job_id: str) -> None:
        """Take it away, with the rows and answers that it tells of."""
        self._client.delete(_path(job_id), cast_to=dict[str, Any])


def changed(found: Json, limit: int) -> Iterator[str]:
    """What tuning changed against the best alternative: counts, and so many rows, what was lost first."""
    about = found.get("changed", {})
    if "counts" not in about:
        return
    counts = about["counts"]
    yield (
        f"Against {about['against']}: {counts['gained']} rows better, {counts['lost']} worse, "
        f"{counts['both_right']} right both times, {counts['neither']} neither"
    )
    rows = {(row["line"], row["turn"]): row for row in found["contenders"]["answers"]}
    places = [
        (how, *place)
        for how, corner in (("worse", "lost"), ("better", "gained"))
        for place in about["rows"][corner]
    ]
    for how, line, turn in places[:limit]:
        row = rows[line, turn]
        before, now = (_short(row["answers"][name]) for name in (about["against"], "tuned"))
        yield f"  {how}, line {line}: {_short(row['asked'])}\n    {before} -> {now}"


def _how_far(found: Json) -> str:
    if found["job_status"] != "succeeded":
        return (
            f"the job's status is '{found['job_status']}'; its report is made once it has succeeded"
        )
    if found["section"] is None:
        return "the report waits for its turn"
    return f"the report is being made: {found['section']}, {found['num_answers']} answers so far"


def _path(job_id: str, ending: str = "") -> str:
    return f"/luthier/fine_tuning/jobs/{quote(job_id, safe='')}/report{ending}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARS else f"{flat[:_SHOWN_CHARS]}…"
