"""The I codes that need no tokens: lengths, what is taught, labels, and the two files beside each other."""

from __future__ import annotations

import json

import numpy as np

from dataset.task_type import DetectedTask

from .columns import RowColumns
from .findings import LintFindings
from .rows import RowPass
from .texts.rules import excerpt

_SHOWN = 8


def tell(
    seen: RowPass,
    task: DetectedTask,
    columns: RowColumns,
    findings: LintFindings,
    validation: RowPass | None,
) -> None:
    """Of the training file `seen`."""
    num_rows = seen.totals.num_rows
    if not num_rows:
        return
    chars = {name: columns.read(f"{name}_chars") for name in ("prompt", "answer")}
    parts = [
        f"{name}s {np.median(of):.0f} characters in the median, {int(of.max())} at most"
        for name, of in chars.items()
        if of.any()
    ]
    findings.add_of_file("I702", "; ".join(parts) or "all texts are empty")
    fence = f", {task.fenced_share:.0%} of them in a Markdown fence" if task.fenced_share else ""
    of = (
        ""
        if task.num_rows == len(seen.sample.rows)
        else f" of {len(seen.sample.rows)} rows looked at"
    )
    findings.add_of_file(
        "I703",
        f"{task.type} ({task.share:.0%} of the rows{of}{fence}), for the method {seen.method}",
    )
    if task.labels:
        total = sum(task.labels.values())
        shown = [
            f"{excerpt(label)} {count / total:.0%}"
            for label, count in list(task.labels.items())[:_SHOWN]
        ]
        more = f" and {len(task.labels) - _SHOWN} more" if len(task.labels) > _SHOWN else ""
        findings.add_of_file("I704", f"{len(task.labels)}: {', '.join(shown)}{more}")
    for key, field in task.fields.items():
        if field.kind == "closed":
            values = ", ".join(value[:40] for value in field.values[:_SHOWN])
            more = f" and {len(field.values) - _SHOWN} more" if len(field.values) > _SHOWN else ""
            findings.add_of_file("I704", f"{json.dumps(key)}: {values}{more}")
    if validation is None:
        findings.add_of_file("I705", f"{num_rows} rows to train on, no validation file")
    else:
        other = validation.totals.num_rows
        share = 100 * other / (other + num_rows)
        findings.add_of_file(
            "I705", f"{num_rows} rows to train on, {other} to validate by ({share:.0f} %)"
        )
