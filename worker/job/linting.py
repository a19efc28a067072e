"""What the linter says of a job's files becomes its events: what trains, but is probably not meant.

What a job refuses, validation has refused before. A linter that fails is no reason for a job to fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from dataset.lint.catalogue import CODES
from dataset.lint.linter import LintOptions, lint
from dataset.lint.report import LintedFile, Role
from storage.jobs import events
from storage.leases import LostLease, Stopped
from worker.endings import Paused
from worker.lease import Lease

MAX_EVENTS = 5
"""Of codes that are told by themselves; the others share one."""
MAX_NEAR_BYTES = 4 * 1024 * 1024
"""Of files in which repeats are looked for that are only near: that takes a few times as long as the rest."""
_TOLD = frozenset(
    code.id for code in CODES.values() if code.severity == "warning" or code.id == "E301"
)
_FIRST = ("E301", "W2", "W1", "W513", "W502", "W6", "W506", "W511")
"""What is told before the rest, where there is much."""

log = structlog.get_logger()


def tell(
    lease: Lease,
    files: Mapping[Role, Path],
    filenames: Mapping[Role, str],
    method: str,
    step: Callable[[], None],
) -> None:
    """Lint the files by their roles, and tell the job's owner. Raises what `step` raises, and LostLease."""
    size_bytes = sum(path.stat().st_size for path in files.values())
    options = LintOptions(
        codes=_TOLD, method=method, finds_near=size_bytes <= MAX_NEAR_BYTES, step=step
    )
    try:
        report = lint(
            files["training"],
            files.get("validation"),
            options,
            filename=filenames["training"],
            validation_filename=filenames.get("validation"),
        )
    except (LostLease, Stopped, Paused):
        raise
    except Exception:
        log.exception("lint.failed", job_id=lease.job.id)
        return
    found = [(file, code) for file in report.files for code in file.counts]
    found.sort(key=lambda each: (_rank(each[1]), each[1]))
    if not found:
        return
    own, shared = found[:MAX_EVENTS], found[MAX_EVENTS:]

    def write(session: Session) -> None:
        for file, code in own:
            _add(session, lease.job.id, file, code)
        if shared:
            codes = ", ".join(f"{code} ({file.counts[code]})" for file, code in shared)
            text = f"The linter says more of the files: {codes}. GET /v1/luthier/files/{{id}}/lint tells it all"
            events.add(session, lease.job.id, "lint", text, level="warn", data={})

    lease.write(write)


def _rank(code: str) -> int:
    return next(
        (place for place, start in enumerate(_FIRST) if code.startswith(start)), len(_FIRST)
    )


def _add(session: Session, job_id: str, file: LintedFile, code: str) -> None:
    findings = [finding for finding in file.findings if finding.code == code]
    count, first = file.counts[code], findings[0]
    lines = [finding.line for finding in findings if finding.line is not None]
    times = f", {count} times" if count > 1 else ""
    where = (
        f" (line {', '.join(map(str, lines))}{', ...' if count > len(lines) else ''})"
        if lines
        else ""
    )
    text = f"{code} in the {file.role} file{times}: {CODES[code].meaning}{where}. {first.message}"
    data = {"code": code, "count": count, "lines": lines, "mend": CODES[code].mend or None}
    events.add(session, job_id, f"lint:{file.role}:{code}", text, level="warn", data=data)
