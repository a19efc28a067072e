"""Which measure a kind of task has (`dataset/task_type.py` says which kind rows are of)."""

from __future__ import annotations

from collections.abc import Callable

from dataset.task_type import DetectedTask

from .calls import CallsMeasure
from .json_objects import JsonMeasure
from .measure import Measure
from .texts import (
    ChatMeasure,
    ClassMeasure,
    CodeMeasure,
    ExtractMeasure,
    NumberMeasure,
    RewriteMeasure,
)

KINDS: dict[str, Callable[[], Measure]] = {
    "tools": CallsMeasure,
    "class": ClassMeasure,
    "number": NumberMeasure,
    "extract": ExtractMeasure,
    "code": CodeMeasure,
    "rewrite": RewriteMeasure,
    "chat": ChatMeasure,
}


def of_task(task: DetectedTask) -> Measure:
    """`task` is that of the training rows."""
    return JsonMeasure(task.fields) if task.type == "json" else KINDS[task.type]()
